"""What a name may be: a file's stem, a folder of runs and a word in prompts, all at once and on every system."""

import warnings
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_ti.settings.names import FORBIDDEN_CHARACTERS, MAX_BYTES, name_problem


@pytest.mark.parametrize(
    "name",
    ["my-mug", "Mug 2", "v1.5-mug", "кружка", "杯子", "mug's", "-mug", "mug_", "x" * MAX_BYTES,
     # what only looks like something forbidden
     "and", "break", "android", "BREAKFAST", "Anderson AND_co", "console", "com10", "nul-mug", "mug.nul", "bins"],
)  # fmt: skip
def test_can_be_used(name):
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
def test_cannot_be_used(name, reason):
    assert reason in name_problem(name)


def test_every_forbidden_character_is_named_at_once():
    assert name_problem("a/b:c/d") == "the name cannot contain '/' ':'"


WICKED = st.lists(
    st.sampled_from(["nul", "CON", "com", "1", "¹", ".", "..", " ", "/", "\\", ":", "AND", "BREAK", "\0", "mug", ".pt"])
).map("".join)


@given(WICKED | st.text())
@example("con")
def test_what_can_be_used_is_one_part_of_a_path_everywhere(name):
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
