"""Imports point downward only, and a light start stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for path in (ROOT / "lib_ti").rglob("*.py"))

BASE = {
    "checks",
    "errors",
    "events",
    "files",
    "heap",
    "names",
    "learning_rate",
    "option",
    "randomness",
    "settings",
    "timing",
}
BELOW: dict[str, set[str]] = {
    "base": set(),
    "data": {"base"},
    "model": {"base"},
    "embedding": {"base", "model"},
    "training": {"base", "data", "model", "embedding"},
    "runs": {"base", "data", "model", "embedding", "training"},
    "webui": {"base", "data", "model", "embedding", "training", "runs"},
    "practice": {"base", "data", "model", "embedding", "training", "runs", "cli"},
    "cli": {"base", "data", "model", "embedding", "training", "runs", "webui", "practice"},
    "__main__": {"cli"},
}
"""Each layer, and what it may import beside itself."""

OF_ONE_LAYER = {"gradio": "webui", "fastapi": "webui", "modules": "webui", "modules_forge": "webui", "tqdm": "cli"}


def layer_of(module: str) -> str:
    """The layer of `lib_ti.a.b`; the package itself, which holds only its version, belongs to the base."""
    top = module.split(".")[1] if "." in module else "base"
    return "base" if top in BASE else top


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, also in functions and for type checkers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where they point"
            found |= {_imported(node.module or "", alias.name) for alias in node.names}
    return found


def _imported(package: str, name: str) -> str:
    """`from package import name` imports a module of the package, or the package for something in it."""
    place = ROOT.joinpath(*package.split("."), name)
    return f"{package}.{name}" if place.is_dir() or place.with_suffix(".py").is_file() else package


def test_every_module_belongs_to_a_layer():
    assert {layer_of(module_of(path)) for path in MODULES} <= BELOW.keys()
    assert {module_of(path) for path in MODULES} >= {f"lib_ti.{name}" for name in BASE}


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_point_downward(path):
    layer = layer_of(module_of(path))
    ours = {module for module in imports(path) if module.split(".")[0] == "lib_ti"}
    upward = {module for module in ours if layer_of(module) not in {layer, *BELOW[layer]}}
    assert not upward


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_other_packages_are_imported_where_they_belong(path):
    layer = layer_of(module_of(path))
    others = {module.split(".")[0] for module in imports(path)} - {"lib_ti"}
    if layer in ("base", "runs", "__main__"):
        assert others <= sys.stdlib_module_names
    if layer not in ("cli", "practice"):
        assert {package for package in others if OF_ONE_LAYER.get(package, layer) != layer} == set()


def test_the_layers_can_tell_up_from_down():
    """The tests above rest on these."""
    assert "lib_ti.files" in imports(ROOT / "lib_ti" / "runs" / "folder.py")  # from lib_ti import __version__, files
    assert "lib_ti.runs.execute" in imports(ROOT / "lib_ti" / "cli" / "train.py")  # within a function
    assert [layer_of(m) for m in ("lib_ti", "lib_ti.settings.train_settings", "lib_ti.model.prompt.text_encoder")] == [
        "base",
        "base",
        "model",
    ]
    assert "model" not in BELOW["data"]


@pytest.mark.parametrize(
    "module",
    [
        "lib_ti.settings.train_settings", "lib_ti.runs.events", "lib_ti.runs.folder", "lib_ti.runs.lock", "lib_ti.runs.queue", "lib_ti.cli",
        "lib_ti.webui.extension",
    ],
)  # fmt: skip
def test_a_light_start(module):
    """Whatever opens the tab or only reads a command line does not wait for torch."""
    heavy = "{'torch', 'diffusers', 'transformers', 'numpy', 'gradio'}"
    program = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_tab_opens_without_the_networks():
    """A host has torch and gradio loaded before any extension; diffusers and transformers would cost seconds."""
    program = (
        "import sys, lib_ti.webui.service, lib_ti.webui.ui.tab, lib_ti.webui.ui.picker; print([m for m in sys.modules if m in "
        "('torch', 'diffusers', 'transformers')])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_no_module_is_a_drawer_for_everything():
    assert not [path for path in MODULES if path.stem in ("utils", "util", "helpers", "common", "misc")]
    lines = {module_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {module: count for module, count in lines.items() if count > 250} == {}
