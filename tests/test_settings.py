"""The options: each is declared once, so each is tested through its declaration."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_ti.errors import BadInput, Problem
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, REQUIRED, TYPES, TrainSettings, parse
from lib_ti.text import option_flag

GIVEN = {"images": "pictures", "name": "my-mug", "model": "sd.safetensors", "out": "embeddings"}


def problems_of(**raw):
    return parse({**GIVEN, **raw})[1]


def as_text(value):
    """A value as a person would give it."""
    if value is None:
        return "auto"
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value if isinstance(value, bool) else str(value)


def test_only_what_cannot_be_guessed_is_required():
    assert set(REQUIRED) == GIVEN.keys()
    settings, problems = parse(GIVEN)
    assert not problems
    assert {name: str(getattr(settings, name)) for name in GIVEN} == GIVEN
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_option_parses_its_own_default(name):
    settings, problems = parse({**GIVEN, name: as_text(DEFAULTS[name])})
    assert not problems
    assert getattr(settings, name) == DEFAULTS[name]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_explains_itself(name):
    option = OPTIONS[name]
    assert option.help
    assert option.section
    if option.choices:
        assert DEFAULTS[name] in option.choices
    if {int, float} & {TYPES[name], *get_args(TYPES[name])}:
        assert option.low is not None, "a number without a lower bound cannot be explained when it is out of range"


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.low is not None])
def test_bounds_belong_to_the_range(name):
    option, whole = OPTIONS[name], int in (TYPES[name], *get_args(TYPES[name]))
    for bound, step in ((option.low, -1), (option.high, 1)):
        exact = int(bound) if whole else bound
        assert not problems_of(**{name: str(exact)})
        (problem,) = problems_of(**{name: str(exact + step * max(1, abs(exact) * (not whole)))})
        assert problem.option == name
        assert "out of range" in problem.message


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("steps", "", "'' is not a whole number"),
        ("steps", "1e3", "'1e3' is not a whole number"),
        ("steps", "0", "0 is out of range; it goes from 1 to 1e+06 steps"),
        ("steps", "1" * 4000, "out of range"),  # too large for a float to compare with
        ("steps", "1" * 5000, "not a whole number"),  # too long for Python to read
        ("vectors", "76", "it goes from 1 to 75 vectors"),
        ("seed", "-1", "it goes 0 or more"),
        ("tag_dropout", "nan", "out of range"),
        ("clip_at", "inf", "out of range"),
        ("clip_at", "1e999", "out of range"),
        ("resolution", "500", "500 is not a multiple of 8; 496 is the next one below"),
        ("resolution", "32", "it goes from 64 to 4096 pixels"),
        ("resolution", "x", "'x' is not a whole number"),
        ("kind", "Style", "'Style' is none of subject, style, negative"),
        ("flip", "yes", "'yes' is neither true nor false"),
        ("device", "mps", "not supported"),
        ("device", "cuda:", "not supported"),
        ("device", "cuda:0\n", "not supported"),
        ("preview_seed", ["1", "x"], "'x' is not a whole number"),
        ("preview_seed", [str(2**32)], "out of range"),
        ("images", " ", "is empty"),
        ("vae", "a\0b", "null character"),
        ("out", "~nobody-of-that-name/embeddings", "home"),
        ("steps", ["1", "2"], "takes one value"),
        ("model", True, "needs a value"),
        ("init_text", " ", "is empty"),
    ],
)
def test_refused(name, text, reason):
    (problem,) = problems_of(**{name: text})
    assert problem.option == name
    assert reason in problem.message


def test_names_and_rates_are_checked_by_their_own_modules():
    assert {p.option for p in problems_of(name="a/b", learning_rate="0.1:10:20")} == {"name", "learning_rate"}


def test_all_problems_are_found_together():
    raw = {"images": "", "name": "", "steps": "0", "kind": "x", "flip": "x", "learning_rate": "x", "resolution": "9",
           "preview_seed": ["x"], "device": "x", "vectors": "12"}  # fmt: skip
    settings, problems = parse(raw)
    assert sorted(p.option for p in problems) == sorted([*(raw.keys() - {"vectors"}), "model", "out"])
    assert {str(p) for p in problems if p.option in ("model", "out")} == {"--model: is missing", "--out: is missing"}
    assert settings.vectors == 12, "what is right is kept, to be checked against files"
    assert settings.steps == DEFAULTS["steps"], "what is wrong falls back"


@pytest.mark.parametrize(
    ("raw", "option"),
    [
        ({"init_random": True, "init_embedding": "mug.pt"}, "init_random"),
        ({"learning_rate": "0.1:10,0.2", "lr_schedule": "cosine"}, "lr_schedule"),
    ],
)
def test_options_that_clash(raw, option):
    (problem,) = problems_of(**raw)
    assert problem.option == option
    for name in raw:
        assert not problems_of(**{name: raw[name]}), "each alone is right"


def test_a_random_start_needs_no_words():
    assert not problems_of(init_text="", init_random=True)
    assert not problems_of(init_text="", init_embedding="mug.pt")


@pytest.mark.parametrize("text", ["", " ", "auto", "AUTO"])
def test_auto(text):
    settings, problems = parse({**GIVEN, "resolution": text, "preview_width": text})
    assert not problems
    assert settings.resolution is None
    assert settings.preview_width is None


def test_a_file_that_is_named_must_have_a_name():
    (problem,) = problems_of(vae="")
    assert (problem.option, problem.message) == ("vae", "needs a value")


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert parse({**GIVEN, "out": "~/embeddings"})[0].out == tmp_path / "embeddings"


def test_pictures_per_step():
    assert parse({**GIVEN, "batch_size": "3", "gradient_accumulation": "4"})[0].effective_batch_size == 12


def test_problems_read_as_flags():
    assert option_flag("preview_every") == "--preview-every"
    assert str(Problem("preview_every", "is missing")) == "--preview-every: is missing"


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
PATHS = st.text("abc /._-é", min_size=1).filter(str.strip).map(lambda text: Path("folder", text))
ODD = {
    "name": st.from_regex(r"[a-z]{2}-[a-z0-9]{1,20}", fullmatch=True),
    "learning_rate": st.sampled_from(["auto", "0.005", "0.005:100, 1e-3:1000"]),
    "learning_rate_2": st.sampled_from(["auto", "0.005", "0.005:100, 1e-3:1000"]),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    "lr_schedule": st.just("constant"),  # the others clash with a list of rates
    "init_random": st.just(False),  # clashes with init_embedding
    "init_text": TEXT.filter(str.strip),
}


def values(name):
    """Any value that an option may have, from its declaration alone."""
    kind, option = TYPES[name], OPTIONS[name]
    low, high = option.low, option.high
    inner = {k for k in (kind, *get_args(kind)) if k in (int, float, str, bool, Path)}.pop()
    if name in ODD:
        one = ODD[name]
    elif option.choices:
        one = st.sampled_from(option.choices)
    elif option.unit == "pixels":
        one = st.integers(int(low) // 8, int(high) // 8).map(lambda n: 8 * n)
    else:
        one = {
            int: lambda: st.integers(int(low), int(high)),
            float: lambda: st.floats(low, high),
            str: lambda: TEXT,
            bool: st.booleans,
            Path: lambda: PATHS,
        }[inner]()
    if kind in (tuple[str, ...], tuple[int, ...]):
        return st.lists(one).map(tuple)
    return st.none() | one if type(None) in get_args(kind) else one


@given(st.fixed_dictionaries({name: values(name) for name in OPTIONS}))
def test_any_settings_survive_text_and_json(chosen):
    settings, problems = parse({name: as_text(value) for name, value in chosen.items()})
    assert not problems
    assert settings == TrainSettings(**chosen)
    assert TrainSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


HOSTILE = st.sampled_from(
    ["", " ", "nan", "-1", "1" * 4000, "1" * 5000, "~nobody/x", "~", "\0", "１２", "\udcff", "auto", "0:0"]
)
TEXTS = HOSTILE | st.text()


@given(st.dictionaries(st.sampled_from([*OPTIONS]), TEXTS | st.lists(TEXTS) | st.booleans()))
@example({"seed": "1" * 4000, "images": "~nobody/x"})
def test_whatever_is_given_is_answered_with_problems(raw):
    settings, problems = parse(raw)
    assert all(p.option in OPTIONS and p.message and len(p.message.splitlines()) == 1 for p in problems)
    assert {name for name in REQUIRED if name not in raw} <= {p.option for p in problems}
    for field in dataclasses.fields(settings):
        value, kind = getattr(settings, field.name), TYPES[field.name]
        allowed = (tuple,) if kind in (tuple[str, ...], tuple[int, ...]) else get_args(kind) or (kind,)
        assert isinstance(value, allowed), field.name


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(st.dictionaries(st.sampled_from([*OPTIONS, "option of a later version"]), JSON))
def test_a_spoilt_settings_file_is_bad_input_at_worst(record):
    with pytest.raises(BadInput):  # the empty name stands for a file that someone has edited
        TrainSettings.from_json({**record, "name": ""})


def test_options_of_another_version_are_passed_over():
    record = parse(GIVEN)[0].to_json()
    assert TrainSettings.from_json({**record, "later": 1}) == parse(GIVEN)[0]
    del record["clip_at"]
    assert TrainSettings.from_json(record).clip_at == DEFAULTS["clip_at"]
