"""Documentation names only what exists: files, modules, flags."""

import re
from pathlib import Path

import pytest

from lib_ti.settings.train_settings import OPTIONS
from lib_ti.text import option_flag

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"`([^`\n]+)`")
FENCED = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+?)(?:#([^)]+))?\)")

PACKAGES = {
    path.parent.relative_to(ROOT / "lib_ti").as_posix().replace("/", ".")
    for path in (ROOT / "lib_ti").rglob("__init__.py")
}
SCRIPTS = {path.name for folder in ("benchmarks", "javascript") for path in (ROOT / folder).iterdir()}
SOURCES = [*(ROOT / "lib_ti").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
OTHER_FLAGS = {name for path in SOURCES for name in re.findall(r"\"(--[a-z-]+)\"", path.read_text(encoding="utf-8"))}
HOSTS_FLAGS = {
    "--api", "--api-auth", "--cors-allow-origins", "--gradio-auth", "--hide-ui-dir-config", "--listen", "--server-name",
}  # fmt: skip


def inline_code(document: Path) -> set[str]:
    return set(CODE.findall(FENCED.sub("", document.read_text(encoding="utf-8"))))


def names_module(text: str) -> bool:
    """Whether `text` is written as a module, or something in one, of a package of lib_ti: `runs.folder`, `data.images.decode`."""
    top = text.removeprefix("lib_ti.").split(".")[0]
    return re.fullmatch(r"[a-z_]+(\.\w+)+", text) is not None and top in PACKAGES


def exists(text: str) -> bool:
    """Whether a dotted name leads to a package, a module, or a name that its module defines."""
    parts = text.removeprefix("lib_ti.").split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT / "lib_ti" / Path(*parts[:count])
        if path.is_dir() or path.with_suffix(".py").is_file():
            source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
            return all(re.search(rf"\b{re.escape(part)}\b", source) for part in parts[count:])
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_named_in_documents_exist(document):
    assert {text for text in inline_code(document) if names_module(text) and not exists(text)} == set()


def test_modules_in_the_architecture_table_exist():
    """Its rows name a package, or several, and then modules of it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \| (.+) \|$", text, re.MULTILINE)
    tables = [
        (CODE.findall(packages), CODE.findall(cell)) for packages, cell in rows if CODE.findall(packages)[0] in PACKAGES
    ]
    assert {package for packages, _ in tables for package in packages} == PACKAGES - {".", "cli"}
    missing = [
        f"{packages}: {name}"
        for packages, names in tables
        for name in names
        if re.fullmatch(r"[a-z_0-9]+", name)
        and not any((ROOT / "lib_ti" / package.replace(".", "/") / f"{name}.py").is_file() for package in packages)
    ]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_named_in_documents_exist(document):
    paths = {
        text
        for text in inline_code(document)
        if re.fullmatch(r"[\w./-]+\.(py|js|css|md|json|txt|safetensors)", text)
        and (text.split("/")[0] in {path.name for path in ROOT.iterdir()} or text.startswith("tinv"))
    }
    assert {text for text in paths if not (ROOT / text).exists() and text not in SCRIPTS} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document):
    for target, heading in LINK.findall(document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path = document.parent / target
        assert path.is_file(), f"{document.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {title.lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_flags_named_in_documents_exist(document):
    text = document.read_text(encoding="utf-8")
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
    assert flags - {option_flag(name) for name in OPTIONS} - OTHER_FLAGS - HOSTS_FLAGS == set()
