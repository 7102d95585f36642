"""run.py without network and child processes: its decisions, their order, and its messages."""

import ast
import importlib.util
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)

PINS = '# a comment\n\ntorch==2.13.0\ndiffusers==0.31.0\nnumpy==1.26.4\ntomli==2.5.0; python_version < "3.11"\n'


def python(version: str, *command: str):
    return run.Interpreter(command or ("python",), version)


@pytest.fixture
def calls(monkeypatch):
    """The commands that run.py would have run; `calls.codes` has exit codes for commands that contain an argument."""

    class Calls(list):
        codes: dict[str, int]

        def __call__(self, command, **_):
            self.append([str(part) for part in command])
            return next((code for argument, code in self.codes.items() if argument in self[-1]), 0)

    calls = Calls()
    calls.codes = {}
    monkeypatch.setattr(run, "call", calls)
    monkeypatch.setattr(run, "capture_output", lambda command: None)
    return calls


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with nothing but pins."""
    (tmp_path / "tests" / "pins").mkdir(parents=True)
    (tmp_path / "tests" / "pins" / "default.txt").write_text(PINS)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setitem(run.SUITABLE, "default", (".".join(map(str, sys.version_info[:2])), "another"))
    return tmp_path


def complete_environment(folder: Path, stamp: str) -> None:
    """Create what a complete installation leaves behind."""
    (folder / run.STAMP).write_text(stamp)
    interpreter = run.venv_python(folder, sys.platform)
    interpreter.parent.mkdir(parents=True, exist_ok=True)
    interpreter.touch()


class TestPython:
    def test_old_python_can_parse_the_script(self):
        """So that it can print which versions are suitable, instead of a syntax error."""
        ast.parse((ROOT / "run.py").read_text(), feature_version=(3, 8))

    @pytest.mark.parametrize("version", ["3.10.0", "3.11.7", "3.12.1", "3.12.0rc3"])
    def test_suitable_running_python_is_used(self, version):
        others = (pytest.fail("looked for another") for _ in range(1))
        assert run.choose_python(python(version), run.SUITABLE["default"], others) == python(version)

    def test_first_suitable_other_python_is_used(self):
        others = [python("3.9.2", "odd"), python("3.11.4", "python3.11"), python("3.10.1", "python3.10")]
        assert run.choose_python(python("3.12.1"), run.SUITABLE["a1111"], others).command == ("python3.11",)

    @pytest.mark.parametrize(
        ("pins", "version", "suitable"),
        [
            ("default", "3.13.0", "3.10, 3.11 or 3.12"),
            ("default", "3.1.5", "3.10, 3.11 or 3.12"),
            ("a1111", "3.12.1", "3.10 or 3.11"),
        ],
    )
    def test_no_suitable_python_exits_with_a_message(self, pins, version, suitable, capsys):
        with pytest.raises(SystemExit) as end:
            run.choose_python(python(version), run.SUITABLE[pins])
        assert end.value.code == 2
        assert capsys.readouterr().err == (
            f"This needs Python {suitable}, and only {version} is at hand: start run.py with one of those.\n"
        )

    def test_commands_by_system(self):
        assert run.python_commands(("3.10", "3.11"), "linux") == [("python3.10",), ("python3.11",)]
        assert run.python_commands(("3.10", "3.11"), "win32") == [("py", "-3.10"), ("py", "-3.11")]

    def test_only_commands_that_start_a_python_are_found(self):
        missing, broken = ("no-such-python",), (sys.executable, "-c", "raise SystemExit(1)")
        (result,) = run.find_pythons([missing, broken, (sys.executable,)])
        assert result == ((sys.executable,), sys.version.split()[0])


class TestEnvironment:
    @pytest.mark.parametrize(
        ("folder", "system", "interpreter"),
        [
            (PureWindowsPath("C:/ti/.venv"), "win32", r"C:\ti\.venv\Scripts\python.exe"),
            (PurePosixPath("/ti/.venv"), "linux", "/ti/.venv/bin/python"),
            (PurePosixPath("/ti/.venv"), "darwin", "/ti/.venv/bin/python"),
        ],
    )
    def test_interpreter_path(self, folder, system, interpreter):
        assert str(run.venv_python(folder, system)) == interpreter

    def test_stamp_depends_on_pins_and_version(self):
        stamps = {run.stamp(pins, version) for pins in ("a==1", "a==2") for version in ("3.10.1", "3.10.2")}
        assert len(stamps) == 4
        assert run.stamp("a==1", "3.10.1") in stamps

    @pytest.mark.parametrize("system", ["win32", "linux"])
    def test_environment_is_ready_only_when_complete(self, tmp_path, system):
        folder, stamp = tmp_path / ".venv", run.stamp("a==1", "3.11.7")
        assert not run.is_ready(folder, stamp, system)
        run.recreate(folder)
        assert not run.is_ready(folder, stamp, system)
        (folder / run.STAMP).write_text(stamp)
        assert not run.is_ready(folder, stamp, system), "its Python is gone"
        interpreter = run.venv_python(folder, system)
        interpreter.parent.mkdir()
        interpreter.touch()
        assert run.is_ready(folder, stamp, system)
        assert not run.is_ready(folder, run.stamp("a==2", "3.11.7"), system)

    def test_own_environment_is_recreated(self, tmp_path):
        complete_environment(tmp_path, "whatever")
        run.recreate(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [run.STAMP]

    def test_folder_of_the_user_is_not_deleted(self, tmp_path, capsys):
        (tmp_path / "precious").touch()
        with pytest.raises(SystemExit) as end:
            run.recreate(tmp_path)
        assert end.value.code == 2
        assert "was not made by run.py" in capsys.readouterr().err
        assert (tmp_path / "precious").exists()

    def test_environment_in_use_is_reported(self, tmp_path, monkeypatch, capsys):
        def refuse(folder):
            raise PermissionError("python.exe is open")

        complete_environment(tmp_path, "whatever")
        monkeypatch.setattr(run.shutil, "rmtree", refuse)
        with pytest.raises(SystemExit) as end:
            run.recreate(tmp_path)
        assert end.value.code == 1
        assert "is in use (python.exe is open)" in capsys.readouterr().err

    def test_interrupted_installation_is_repeated_and_complete_one_reused(self, checkout, calls, monkeypatch, capsys):
        def make(command, **_):
            calls.append(command)
            complete_environment(checkout / ".venv", "unfinished")
            return 0

        monkeypatch.setattr(run, "call", make)
        with monkeypatch.context() as interrupted:
            interrupted.setattr(run, "install", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run.prepare_environment("default")
        assert run.prepare_environment("default") == run.venv_python(checkout / ".venv", sys.platform)
        assert [command[1:3] for command in calls].count(["-m", "venv"]) == 2
        capsys.readouterr()

        calls.clear()
        run.prepare_environment("default")
        assert calls == []
        assert capsys.readouterr().out == "Using .venv again, which holds the packages of tests/pins/default.txt.\n"

    def test_changed_pins_are_installed(self, checkout, calls):
        (checkout / ".venv").mkdir()
        complete_environment(checkout / ".venv", run.stamp("older", sys.version.split()[0]))
        run.prepare_environment("default")
        assert calls


class TestInstall:
    @pytest.mark.parametrize(
        ("system", "nvidia", "expected"),
        [
            ("linux", False, ("torch==2.13.0+cpu", "https://download.pytorch.org/whl/cpu")),
            ("linux", True, None),
            ("win32", False, None),
            ("win32", True, (f"torch==2.13.0+{run.CUDA}", f"https://download.pytorch.org/whl/{run.CUDA}")),
            ("darwin", False, None),
        ],
    )
    def test_torch_build_by_system(self, system, nvidia, expected):
        assert run.torch_build("torch==2.13.0", system, nvidia) == expected

    @pytest.mark.parametrize("code", [0, 1])
    def test_build_for_this_machine_is_tried_first(self, calls, code, monkeypatch, capsys):
        monkeypatch.setattr(run, "torch_build", lambda *_, **__: ("torch==2.13.0+cpu", "https://index.example"))
        calls.codes = {"torch==2.13.0+cpu": code}
        run.install(Path("python"), run.read_pins(PINS))
        first, most, last = calls
        assert first[-3:] == ["--extra-index-url", "https://index.example", "torch==2.13.0+cpu"]
        assert {"torch==2.13.0", "numpy==1.26.4"} < set(most)
        assert not any(part.startswith("diffusers") for part in most)
        assert last[-2:] == ["--no-deps", "diffusers==0.31.0"]
        assert ("No index at hand has it" in capsys.readouterr().out) == bool(code)

    def test_failure_of_pip_exits_with_its_code(self, calls, capsys):
        calls.codes = {"numpy==1.26.4": 3}
        with pytest.raises(SystemExit) as end:
            run.install(Path("python"), run.read_pins(PINS))
        assert end.value.code == 3
        assert "pip could not install" in capsys.readouterr().err

    def test_index_of_the_user_is_kept(self, calls):
        run.install(Path("python"), run.read_pins(PINS))
        assert not any("--index-url" in command for command in calls)

    @pytest.mark.parametrize("name", run.SUITABLE)
    def test_every_pin_is_exact(self, name):
        pins = run.read_pins((ROOT / "tests" / "pins" / f"{name}.txt").read_text())
        assert {"torch", "diffusers", "transformers", "gradio", "pytest", "hypothesis"} <= pins.keys()
        assert pins["diffusers"] == "diffusers==0.31.0"
        for package, line in pins.items():
            assert re.fullmatch(re.escape(package) + r"==[0-9a-z.]+(; (sys_platform|python_version) .*)?", line)


class TestCall:
    def test_exit_codes_pass_through(self):
        assert run.call([sys.executable, "-c", "raise SystemExit(7)"]) == 7

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to die of")
    def test_signal_becomes_the_shells_exit_code(self):
        code = f"import os; os.kill(os.getpid(), {int(signal.SIGTERM)})"
        assert run.call([sys.executable, "-c", code]) == 128 + signal.SIGTERM

    def test_ctrl_c_waits_for_the_child(self, monkeypatch):
        class Worker:
            returncode = None
            waits = 0

            def wait(self):
                self.waits += 1
                if self.waits < 3:
                    raise KeyboardInterrupt
                self.returncode = 0

        child = Worker()
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: child)
        with pytest.raises(KeyboardInterrupt):
            run.call(["anything"])
        assert child.waits == 3


class TestCommands:
    @pytest.fixture(autouse=True)
    def _prepared(self, monkeypatch):
        monkeypatch.setattr(run, "prepare_environment", lambda name: Path(name))

    def test_other_arguments_go_to_pytest_in_order(self):
        request, extra = run.parse(["test", "-k", "run", "--pins", "forge", "tests/test_run.py", "-x", "--co"])
        assert (request.command, request.pins) == ("test", "forge")
        assert extra == ["-k", "run", "tests/test_run.py", "-x", "--co"]

    @pytest.mark.parametrize("arguments", [[], ["dance"], ["demo", "--quick"], ["test", "--pins", "default"]])
    def test_invalid_request_is_refused(self, arguments, capsys):
        with pytest.raises(SystemExit) as end:
            run.main(arguments)
        assert end.value.code == 2
        assert "usage: run.py" in capsys.readouterr().err

    def test_all_checks_run_and_the_first_failure_is_the_exit_code(self, calls, capsys):
        calls.codes = {"mypy": 4, "pytest": 5}
        assert run.main(["test", "-q"]) == 4
        assert [command[2] for command in calls] == ["ruff", "ruff", "mypy", "pytest"]
        assert calls[-1][2:] == [*run.PYTEST, "-q"]
        assert capsys.readouterr().out.endswith(f"Failed: mypy; {shlex.join(run.PYTEST)} -q\n")

    def test_pins_of_a_host_run_only_smoke_and_browser_tests(self, calls):
        calls.codes = {"pytest": 5}
        assert run.main(["test", "--pins", "a1111", "-x"]) == 5, "no test at all is a failure"
        assert calls == [["a1111", "-m", *run.PYTEST, "-m", "smoke or browser", "-x"]]

    @pytest.mark.parametrize("arguments", [["demo"], ["demo", "--no-ui"]])
    def test_demo_prints_paths_and_serves_the_page(self, checkout, calls, arguments, capsys):
        for date in ("2026-01-01_10-00-00", "2026-01-02_09-00-00"):
            (checkout / run.DEMO_RUNS / run.DEMO_WORD / date).mkdir(parents=True)
        assert run.main(arguments) == 0
        page = ["default", "-m", "lib_ti", "ui", "--data-dir", "demo"]
        training = ["default", "-m", "lib_ti", "train", *shlex.split(run.DEMO_TRAINING)]
        assert calls == ([training] if "--no-ui" in arguments else [training, page])
        output = capsys.readouterr().out
        assert "demo/embeddings/my-coin.safetensors" in output
        assert str(Path("demo/textual_inversion/my-coin/2026-01-02_09-00-00/previews")) in output

    def test_ctrl_c_ends_the_page_successfully(self, checkout, monkeypatch):
        def stop_at_the_page(command, **_):
            if "ui" in command:
                raise KeyboardInterrupt
            return 0

        (checkout / run.DEMO_RUNS / run.DEMO_WORD / "2026-01-01_10-00-00").mkdir(parents=True)
        monkeypatch.setattr(run, "call", stop_at_the_page)
        assert run.main(["demo"]) == 0

    def test_failed_demo_prints_no_result(self, checkout, calls, capsys):
        calls.codes = {"lib_ti": 1}
        assert run.main(["demo"]) == 1
        assert "embedding is" not in capsys.readouterr().out

    def test_ctrl_c_exits_with_130(self, monkeypatch):
        monkeypatch.setattr(run, "demo", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run.main(["demo"]) == 130
