"""install.py installs the packages that a host lacks, and changes nothing else."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DIFFUSERS = "diffusers==0.31.0"


def load():
    spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load()


class FakePip:
    """Installs single-file packages with a RECORD, as pip does; `code`: its exit code."""

    def __init__(self, code=0):
        self.code, self.calls = code, []

    def __call__(self, arguments):
        self.calls.append(list(arguments))
        assert arguments[:3] == ["install", "--no-deps", "--target"]
        target = Path(arguments[3])
        for requirement in arguments[4:]:
            name = requirement.partition("==")[0].partition(">")[0]
            (target / name).mkdir(parents=True)
            (target / name / "__init__.py").write_text("here = True\n")
            (target / f"{name}-1.dist-info").mkdir()
            with (target / f"{name}-1.dist-info" / "RECORD").open("w", newline="") as file:
                rows = [
                    [f"{name}/__init__.py", "sha256=x", "12"],
                    [f"../../bin/{name}", "sha256=x", "99"],
                    [f"{name}/__pycache__/x.pyc", "", ""],
                ]
                csv.writer(file).writerows(rows)
            if self.code:
                break
        return self.code


class HostEnvironment:
    """A WebUI's environment: its version of diffusers, and the modules it lacks."""

    def __init__(self, diffusers=None, lacks=(), **versions):
        self.diffusers, self.lacks, self.versions = diffusers, set(lacks), versions

    def version(self, name):
        return self.diffusers if name == "diffusers" else self.versions.get(name)

    def has(self, module):
        return module not in self.lacks and (module != "diffusers" or self.diffusers is not None)


def run(folder, host, pip):
    return install.main(folder, host.version, host.has, pip)


def siblings(folder):
    return sorted(path.name for path in folder.parent.iterdir())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "extension" / "private"


@pytest.fixture
def filled(folder):
    assert run(folder, HostEnvironment(), FakePip()) == 0
    return folder


def test_diffusers_is_installed_alone_and_once(folder):
    pip = FakePip()
    assert run(folder, HostEnvironment(), pip) == 0
    assert [call[4:] for call in pip.calls] == [[DIFFUSERS]]
    assert (folder / "diffusers" / "__init__.py").exists()
    assert (folder / ".gitignore").read_text() == "*\n"
    assert run(folder, HostEnvironment(), pip) == 0
    assert len(pip.calls) == 1
    assert siblings(folder) == ["private"]


def test_other_diffusers_version_of_the_host_is_not_used(folder):
    pip = FakePip()
    assert run(folder, HostEnvironment(diffusers="0.32.2"), pip) == 0
    assert pip.calls[0][4:] == [DIFFUSERS]


def test_nothing_is_installed_if_the_host_has_everything(folder):
    pip = FakePip()
    assert run(folder, HostEnvironment(diffusers="0.31.0"), pip) == 0
    assert not pip.calls
    assert not folder.parent.exists()


def test_a_decoder_for_heic_is_installed_if_it_is_asked_for_and_kept(folder):
    pip, host = FakePip(), HostEnvironment(lacks=["pillow_heif"])
    assert run(folder, host, pip) == 0
    assert pip.calls[0][4:] == [DIFFUSERS]
    assert install.main(folder, host.version, host.has, pip, ["pillow_heif"]) == 0
    assert pip.calls[1][4:] == [DIFFUSERS, "pillow-heif>=0.16"]
    assert run(folder, host, pip) == 0
    assert len(pip.calls) == 2
    host.lacks = []
    assert run(folder, host, pip) == 0
    assert pip.calls[-1][4:] == [DIFFUSERS], "the WebUI has it by now"


def test_dist_info_without_the_package_does_not_count(folder):
    """A deleted folder whose dist-info has stayed."""
    pip = FakePip()
    assert run(folder, HostEnvironment(diffusers="0.31.0", lacks=["diffusers"]), pip) == 0
    assert pip.calls[0][4:] == [DIFFUSERS]


def test_only_missing_packages_are_installed(folder):
    pip = FakePip()
    assert run(folder, HostEnvironment(lacks=["yaml", "regex"]), pip) == 0
    assert pip.calls[0][4:] == [DIFFUSERS, "PyYAML>=6.0", "regex"]


@pytest.mark.parametrize(
    ("versions", "installed"),
    [
        ({"numpy": "1.26.2", "transformers": "4.30.2", "safetensors": "0.4.2", "huggingface_hub": "0.36.2"}, []),
        ({"numpy": "2.3.5", "transformers": "4.57.6", "safetensors": "0.8.0rc1"}, []),  # Forge Neo's
        ({"numpy": "2.5.5", "transformers": "5.24.0", "huggingface_hub": "2.4.0"}, []),
        ({"numpy": "1.23.5", "Pillow": "9.4.0"}, ["numpy>=1.26,<3", "Pillow>=9.5"]),
        (
            {"transformers": "4.25.1", "huggingface_hub": "0.20.1"},
            ["transformers==4.46.1", "tokenizers>=0.20,<0.21", "huggingface_hub>=0.25,<1"],
        ),
    ],
)
def test_versions_that_do_not_fit_are_replaced(folder, versions, installed):
    pip = FakePip()
    assert run(folder, HostEnvironment(diffusers="0.31.0", **versions), pip) == 0
    assert [call[4:] for call in pip.calls] == ([installed] if installed else [])


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "diffusers" / "__init__.py").unlink(),
        lambda f: (f / "diffusers" / "__init__.py").write_text("here"),
        lambda f: (f / "installed.json").unlink(),
        lambda f: (f / "installed.json").write_text("{"),
        lambda f: (f / "installed.json").write_text("[]"),
        lambda f: (f / "diffusers-1.dist-info" / "RECORD").unlink(),
        lambda f: (f / "installed.json").write_text(
            json.dumps({"packages": ["diffusers==0.30.3"], "python": sys.version})
        ),
    ],
    ids=[
        "file gone",
        "file cut",
        "no manifest",
        "manifest cut",
        "manifest of another type",
        "no RECORD",
        "other version",
    ],
)
def test_damaged_folder_is_replaced(filled, damage):
    damage(filled)
    pip = FakePip()
    assert run(filled, HostEnvironment(), pip) == 0
    assert len(pip.calls) == 1
    assert install.is_ready(filled, [DIFFUSERS])
    assert siblings(filled) == ["private"]


def test_folder_of_another_python_is_reused_only_without_compiled_packages(folder):
    for lacks, calls in (([], 0), (["regex"], 1)):
        run(folder, HostEnvironment(lacks=lacks), FakePip())
        manifest = json.loads((folder / "installed.json").read_text())
        (folder / "installed.json").write_text(json.dumps({**manifest, "python": "3.9"}))
        pip = FakePip()
        run(folder, HostEnvironment(lacks=lacks), pip)
        assert len(pip.calls) == calls


def test_packages_that_the_host_has_by_now_are_removed(folder):
    run(folder, HostEnvironment(lacks=["regex"]), FakePip())
    run(folder, HostEnvironment(), FakePip())
    assert (folder / "diffusers").exists()
    assert not (folder / "regex").exists()
    run(folder, HostEnvironment(lacks=["regex"]), FakePip())
    assert run(folder, HostEnvironment(diffusers="0.31.0"), FakePip()) == 0
    assert not folder.exists()


def test_failed_installation_explains_itself_and_changes_nothing(filled, capsys):
    (filled / "diffusers" / "__init__.py").write_text("as it was")
    assert run(filled, HostEnvironment(), FakePip(code=1)) == 1
    assert (filled / "diffusers" / "__init__.py").read_text() == "as it was"
    assert siblings(filled) == ["private"]
    error_output = capsys.readouterr().err
    assert "diffusers==0.31.0 could not be installed" in error_output
    assert "connection to the internet" in error_output
    assert "install.py" in error_output


def test_folder_that_cannot_be_replaced_stays(filled, monkeypatch, capsys):
    (filled / "installed.json").unlink()
    rename = Path.rename

    def refuse(self, target):
        if self.name.endswith(".part"):
            raise PermissionError("in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert run(filled, HostEnvironment(), FakePip()) == 1
    assert (filled / "diffusers").exists()
    assert siblings(filled) == ["private"]
    assert "in use" in capsys.readouterr().err


def test_remains_of_interrupted_installations_are_deleted_after_an_hour(filled):
    old, new = filled.with_name("private.1.part"), filled.with_name("private.2.part")
    for path in (old, new):
        path.mkdir()
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    assert run(filled, HostEnvironment(), FakePip()) == 0
    assert siblings(filled) == ["private", "private.2.part"]


def test_pip_has_the_users_configuration_and_short_timeouts(tmp_path):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(
        "import json, os, sys; from pathlib import Path\n"
        "seen = {k: os.environ.get(k) for k in ('PIP_RETRIES', 'PIP_DEFAULT_TIMEOUT', 'PIP_USER')}\n"
        "Path(os.environ['SEEN']).write_text(json.dumps([sys.argv[1:], seen])); sys.exit(3)\n"
    )
    seen = tmp_path / "seen.json"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment_variables = {
        **plain,
        "PYTHONPATH": str(tmp_path),
        "SEEN": str(seen),
        "PIP_USER": "1",
        "PIP_RETRIES": "7",
    }
    assert install.run_pip(["install", "x"], {**environment_variables, "INDEX_URL": "https://mirror"}) == 3
    arguments, environment = json.loads(seen.read_text())
    assert arguments[-2:] == ["--index-url", "https://mirror"]
    assert environment == {"PIP_RETRIES": "7", "PIP_DEFAULT_TIMEOUT": "15", "PIP_USER": "0"}
    install.run_pip(["install", "x"], environment_variables)
    assert "--index-url" not in json.loads(seen.read_text())[0]


def test_script_runs_without_a_host_and_imports_nothing_heavy(tmp_path):
    """The tests' environment has everything, so that nothing is installed."""
    (tmp_path / "install.py").write_bytes((ROOT / "install.py").read_bytes())
    result = subprocess.run(
        [sys.executable, "-X", "importtime", tmp_path / "install.py"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (result.returncode, result.stdout) == (0, "")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert not imported & {"diffusers", "torch", "transformers", "numpy", "launch"}
    assert [path.name for path in tmp_path.iterdir()] == ["install.py"]


def test_requirements_match_pyproject():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in [
        *(f"{name}=={version}" for name, version in install.EXACT_VERSIONS.items()),
        *install.REQUIREMENTS.values(),
    ]:
        name = requirement.partition("=")[0].partition(">")[0]
        if f'"{name}' in project:
            assert f'"{requirement}"' in project
