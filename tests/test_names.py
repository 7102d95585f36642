"""Valid names of embeddings: they must work as file names, folder names and tokens in prompts, on every system."""

import warnings
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_ti.settings.names import FORBIDDEN_CHARACTERS, MAX_BYTES, name_problem


@pytest.mark.parametrize(
    "name",
    ["my-mug", "Mug 2", "v1.5-mug", "кружка", "杯子", "mug's", "-mug", "mug_", "x" * MAX_BYTES,
     # similar to forbidden names
     "and", "break", "android", "BREAKFAST", "Anderson AND_co", "console", "com10", "nul-mug", "mug.nul", "bins"],
)  # fmt: skip
def test_valid_names(name):
    assert name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "empty") for name in ("", " ", "\t", "\u3000")),
        *((f"my{c}mug", f"cannot contain {c!r}") for c in FORBIDDEN_CHARACTERS),
        ("..", "dot"), (".mug", "dot"), ("mug.", "dot"), (" mug", "space"), ("mug ", "space"),
        *((f"my{c}mug", "control character") for c in "\0\t\n\r\x1b\x7f\x85\xa0\xad\u2028\u200b\u202e\ufeff\udcff"),
        *((name, "device") for name in ("nul", "NUL", "Con", "aux", "prn", "COM1", "lpt9", "com²", "nul.txt",
                                        "nul.my.mug", "nul .txt", "CONIN$")),
        *((name, "keyword") for name in ("AND", "BREAK", "my AND mug", "my-BREAK")),
        *((f"mug{suffix}", "extension") for suffix in (".pt", ".safetensors", ".BIN", ".png")),
        ("x" * (MAX_BYTES + 1), "longer"), ("杯" * (MAX_BYTES // 3 + 1), "longer"),
    ],
)  # fmt: skip
def test_invalid_names_and_their_reasons(name, reason):
    assert reason in name_problem(name)


def test_all_forbidden_characters_are_reported_together():
    assert name_problem("a/b:c/d") == "the name cannot contain '/' ':'"


TRICKY_NAMES = st.lists(
    st.sampled_from(["nul", "CON", "com", "1", "¹", ".", "..", " ", "/", "\\", ":", "AND", "BREAK", "\0", "mug", ".pt"])
).map("".join)


@given(TRICKY_NAMES | st.text())
@example("con")
def test_valid_names_are_one_path_component_on_every_system(name):
    """Checked against pathlib, which knows what each system makes of a name."""
    problem = name_problem(name)
    if problem is not None:
        assert problem.strip()
        assert len(problem.splitlines()) == 1
        return
    file = f"{name}.safetensors"
    for path in (PurePosixPath(file), PureWindowsPath(file)):
        assert (path.name, path.stem, path.parent) == (file, name, type(path)("."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.13 moves it to os.path
        assert not PureWindowsPath(name).is_reserved()
    assert len(file.encode()) < 255
