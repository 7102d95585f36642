"""Imports point downward only, also between sub-packages; packages stay small, and a light start stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "lib_ti").rglob("*.py"))

MAX_MODULES, MAX_LINES = 12, 250

ROOT_MODULES = {"lib_ti", "lib_ti.errors", "lib_ti.files", "lib_ti.randomness", "lib_ti.text"}
"""What belongs to no package: standard library only, importable by everybody."""

SETTINGS = ("root", "settings")
MODEL = ("model.prompt", "model.memory", "model.speed", "model.checkpoint", "model")
TECHNIQUES = "model.memory.techniques"
TECHNIQUE_MODULES = {
    f"lib_ti.model.memory.{name}"
    for name in ("fp8", "gradient_checkpointing", "lean_layers", "malloc", "replacement", "vae_tiling")
}
"""What works on any network and knows no model: below all of `model`, while the rest of `model.memory` is above it."""
CORE = (*SETTINGS, "formats", "data", TECHNIQUES, *MODEL, "embedding")
TRAINING = (
    "training.preflight", "training.validation", "training.health", "training.finishing", "training.optimization",
    "training.start", "training.resuming", "training",
)  # fmt: skip
RUNS = ("runs.report", "runs", "runs.sweeps", "runs.sharing")
WEBUI = (
    "webui", "webui.api", "webui.forms", "webui.hosts", "webui.images", "webui.security", "webui.standalone", "webui.ui",
)  # fmt: skip

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "root": (),
    "settings": ("root",),
    "formats": ("root",),
    "data": (*SETTINGS, "formats"),
    TECHNIQUES: (),
    "model.speed": (*SETTINGS, TECHNIQUES),
    "model.prompt": ("root",),
    "model.checkpoint": ("root", "formats", TECHNIQUES),
    "model": ("root", "model.prompt", "model.checkpoint", "model.speed"),
    "model.memory": (*SETTINGS, TECHNIQUES, "model.prompt", "model.checkpoint", "model.speed", "model"),
    "embedding": (*SETTINGS, "formats", *MODEL),
    **dict.fromkeys(TRAINING, (*CORE, *TRAINING)),
    "runs.report": (*CORE, "runs"),
    "runs": (*CORE, *TRAINING, "runs.report"),
    "runs.sweeps": (*CORE, *TRAINING, "runs", "runs.report"),
    "runs.sharing": (*CORE, "runs"),
    "webui": (*CORE, *TRAINING, *RUNS, *WEBUI),
    **dict.fromkeys(WEBUI[1:], (*CORE, *TRAINING, *RUNS, *WEBUI)),
    "practice": (*CORE, *TRAINING, *RUNS, "cli"),
    "cli": (*CORE, *TRAINING, *RUNS, *WEBUI, "practice"),
    "__main__": ("cli",),
}
"""Each package, and what it may import besides itself."""

ONLY_IN = {
    "gradio": "webui",
    "fastapi": "webui",
    "modules": "webui.hosts",
    "modules_forge": "webui.hosts",
    "tqdm": "cli",
}
"""Third-party packages that one package alone may import."""
STDLIB_ONLY = ("root", "settings", "runs", "__main__")


def package_of(module: str) -> str:
    """The package of `lib_ti.a.b.c`: `a.b`; of a module in the root of `lib_ti`: `root`, or its own name."""
    if module in ROOT_MODULES:
        return "root"
    if module in TECHNIQUE_MODULES:
        return TECHNIQUES
    parts = module.split(".")[1:]
    if (ROOT / "lib_ti").joinpath(*parts).with_suffix(".py").is_file() and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, also in functions and for type checkers."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where they point"
            modules |= {_imported_module(node.module or "", alias.name) for alias in node.names}
    return modules


def _imported_module(package: str, name: str) -> str:
    """`from package import name` imports a module of the package, or the package for something in it."""
    path = ROOT.joinpath(*package.split("."), name)
    return f"{package}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else package


def test_every_module_belongs_to_a_known_package():
    assert {package_of(module_of(path)) for path in MODULES} == MAY_IMPORT.keys()


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_point_downward(path):
    package = package_of(module_of(path))
    ours = {module for module in imports(path) if module.split(".")[0] == "lib_ti"}
    assert {module for module in ours if package_of(module) not in {package, *MAY_IMPORT[package]}} == set()


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_other_packages_are_imported_where_they_belong(path):
    package = package_of(module_of(path))
    others = {module.split(".")[0] for module in imports(path)} - {"lib_ti"}
    if package in STDLIB_ONLY:
        assert others <= sys.stdlib_module_names
    if package not in ("cli", "practice"):
        assert {other for other in others if not f"{package}.".startswith(f"{ONLY_IN.get(other, package)}.")} == set()


def test_layer_helpers_resolve_modules():
    """The tests above rest on these."""
    assert "lib_ti.files" in imports(ROOT / "lib_ti" / "runs" / "folder.py")  # from lib_ti import __version__, files
    assert "lib_ti.runs.execute" in imports(ROOT / "lib_ti" / "cli" / "train.py")  # within a function
    examples = {
        "lib_ti": "root", "lib_ti.errors": "root", "lib_ti.settings.option": "settings", "lib_ti.settings": "settings",
        "lib_ti.model.diffusion": "model", "lib_ti.model.prompt.text_encoder": "model.prompt", "lib_ti.webui.ui": "webui.ui",
    }  # fmt: skip
    assert {module: package_of(module) for module in examples} == examples
    assert "model" not in MAY_IMPORT["data"]


@pytest.mark.parametrize(
    "module",
    [
        "lib_ti.settings.train_settings", "lib_ti.runs.events", "lib_ti.runs.folder", "lib_ti.runs.lock",
        "lib_ti.runs.queue", "lib_ti.cli", "lib_ti.webui.extension",
    ],
)  # fmt: skip
def test_light_modules_import_no_heavy_package(module):
    """Whatever opens the tab or only reads a command line does not wait for torch."""
    heavy = "{'torch', 'diffusers', 'transformers', 'numpy', 'gradio'}"
    program = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_tab_opens_without_torch():
    """A host has torch and gradio loaded before any extension; diffusers and transformers would cost seconds."""
    program = (
        "import sys, lib_ti.webui.service, lib_ti.webui.ui.tab, lib_ti.webui.ui.picker; "
        "print([m for m in sys.modules if m in ('torch', 'diffusers', 'transformers')])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_modules_and_packages_stay_small():
    assert not [path for path in MODULES if path.stem in ("utils", "util", "helpers", "common", "misc")]
    lines = {module_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {module: count for module, count in lines.items() if count > MAX_LINES} == {}
    folders = {path.parent for path in MODULES}
    sizes = {module_of(folder): len([p for p in folder.glob("*.py") if p.stem != "__init__"]) for folder in folders}
    assert {package: size for package, size in sizes.items() if size > MAX_MODULES} == {}
