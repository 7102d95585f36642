"""Settings: every option is tested through its declaration."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_ti.errors import BadInput, Problem
from lib_ti.settings.parsing import parse, settings_from_json
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, REQUIRED, TYPES, TrainSettings
from lib_ti.text import option_flag

REQUIRED_VALUES = {"images": "pictures", "name": "my-mug", "model": "sd.safetensors", "out": "embeddings"}


def problems_of(**raw):
    return parse({**REQUIRED_VALUES, **raw})[1]


def to_raw(value):
    """A value as the user would enter it."""
    if value is None:
        return "auto"
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value if isinstance(value, bool) else str(value)


def test_only_options_without_a_default_are_required():
    assert set(REQUIRED) == REQUIRED_VALUES.keys()
    settings, problems = parse(REQUIRED_VALUES)
    assert not problems
    assert {name: str(getattr(settings, name)) for name in REQUIRED_VALUES} == REQUIRED_VALUES
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_option_parses_its_own_default(name):
    settings, problems = parse({**REQUIRED_VALUES, name: to_raw(DEFAULTS[name])})
    assert not problems
    assert getattr(settings, name) == DEFAULTS[name]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_help_and_bounds(name):
    option = OPTIONS[name]
    assert option.help
    assert option.section
    if option.choices:
        assert DEFAULTS[name] in option.choices
    if {int, float} & {TYPES[name], *get_args(TYPES[name])}:
        assert option.low is not None, "a number without a lower bound cannot be explained when it is out of range"


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.low is not None])
def test_bounds_are_inclusive(name):
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
        ("steps", "0", "0 is out of range; it goes from 1 to 1000000 steps"),
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
def test_invalid_values_are_refused(name, text, reason):
    (problem,) = problems_of(**{name: text})
    assert problem.option == name
    assert reason in problem.message


def test_names_and_learning_rates_are_validated():
    assert {p.option for p in problems_of(name="a/b", learning_rate="0.1:10:20")} == {"name", "learning_rate"}


def test_all_problems_are_reported_together():
    raw = {"images": "", "name": "", "steps": "0", "kind": "x", "flip": "x", "learning_rate": "x", "resolution": "9",
           "preview_seed": ["x"], "device": "x", "vectors": "12"}  # fmt: skip
    settings, problems = parse(raw)
    assert sorted(p.option for p in problems) == sorted([*(raw.keys() - {"vectors"}), "model", "out"])
    assert {str(p) for p in problems if p.option in ("model", "out")} == {"--model: is missing", "--out: is missing"}
    assert settings.vectors == 12, "valid options are kept, to be checked against files"
    assert settings.steps == DEFAULTS["steps"], "invalid options have their defaults"


@pytest.mark.parametrize(
    ("raw", "option"),
    [
        ({"init_random": True, "init_embedding": "mug.pt"}, "init_random"),
        ({"learning_rate": "0.1:10,0.2", "lr_schedule": "cosine"}, "lr_schedule"),
    ],
)
def test_conflicting_options_are_refused(raw, option):
    (problem,) = problems_of(**raw)
    assert problem.option == option
    for name in raw:
        assert not problems_of(**{name: raw[name]}), "each is valid by itself"


def test_init_text_may_be_empty_with_another_initialization():
    assert not problems_of(init_text="", init_random=True)
    assert not problems_of(init_text="", init_embedding="mug.pt")


@pytest.mark.parametrize("text", ["", " ", "auto", "AUTO"])
def test_auto_and_empty_text_mean_none(text):
    settings, problems = parse({**REQUIRED_VALUES, "resolution": text, "preview_width": text})
    assert not problems
    assert settings.resolution is None
    assert settings.preview_width is None


def test_empty_path_of_an_optional_file_is_refused():
    (problem,) = problems_of(vae="")
    assert (problem.option, problem.message) == ("vae", "needs a value")


def test_tilde_expands_to_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert parse({**REQUIRED_VALUES, "out": "~/embeddings"})[0].out == tmp_path / "embeddings"


def test_effective_batch_size():
    assert parse({**REQUIRED_VALUES, "batch_size": "3", "gradient_accumulation": "4"})[0].effective_batch_size == 12


def test_problems_name_the_flag():
    assert option_flag("preview_every") == "--preview-every"
    assert str(Problem("preview_every", "is missing")) == "--preview-every: is missing"


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
PATHS = st.text("abc /._-é", min_size=1).filter(str.strip).map(lambda text: Path("folder", text))
SPECIAL_VALUES = {
    "name": st.from_regex(r"[a-z]{2}-[a-z0-9]{1,20}", fullmatch=True),
    "learning_rate": st.sampled_from(["auto", "0.005", "0.005:100, 1e-3:1000"]),
    "learning_rate_2": st.sampled_from(["auto", "0.005", "0.005:100, 1e-3:1000"]),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    "lr_schedule": st.just("constant"),  # the others conflict with a piecewise schedule
    "init_random": st.just(False),  # conflicts with init_embedding
    "init_text": TEXT.filter(str.strip),
}


def valid_values(name):
    """A strategy for the valid valid_values of an option, derived from its declaration."""
    kind, option = TYPES[name], OPTIONS[name]
    low, high = option.low, option.high
    inner = {k for k in (kind, *get_args(kind)) if k in (int, float, str, bool, Path)}.pop()
    if name in SPECIAL_VALUES:
        strategy = SPECIAL_VALUES[name]
    elif option.choices:
        strategy = st.sampled_from(option.choices)
    elif option.unit == "pixels":
        strategy = st.integers(int(low) // 8, int(high) // 8).map(lambda n: 8 * n)
    else:
        strategy = {
            int: lambda: st.integers(int(low), int(high)),
            float: lambda: st.floats(low, high),
            str: lambda: TEXT,
            bool: st.booleans,
            Path: lambda: PATHS,
        }[inner]()
    if kind in (tuple[str, ...], tuple[int, ...]):
        return st.lists(strategy).map(tuple)
    return st.none() | strategy if type(None) in get_args(kind) else strategy


def without_conflicts(values):
    return {**values, "kind": "negative"} if values["contrast_images"] else values


@given(st.fixed_dictionaries({name: valid_values(name) for name in OPTIONS}).map(without_conflicts))
def test_settings_round_trip_through_text_and_json(chosen):
    settings, problems = parse({name: to_raw(value) for name, value in chosen.items()})
    assert not problems
    assert settings == TrainSettings(**chosen)
    assert settings_from_json(json.loads(json.dumps(settings.to_json()))) == settings


HOSTILE = st.sampled_from(
    ["", " ", "nan", "-1", "1" * 4000, "1" * 5000, "~nobody/x", "~", "\0", "１２", "\udcff", "auto", "0:0"]
)
TEXTS = HOSTILE | st.text()


@given(st.dictionaries(st.sampled_from([*OPTIONS]), TEXTS | st.lists(TEXTS) | st.booleans()))
@example({"seed": "1" * 4000, "images": "~nobody/x"})
def test_any_input_is_parsed_or_reported(raw):
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
def test_damaged_settings_file_raises_bad_input(record):
    with pytest.raises(BadInput):  # the empty name is always invalid
        settings_from_json({**record, "name": ""})


def test_options_of_another_version_are_ignored():
    record = parse(REQUIRED_VALUES)[0].to_json()
    assert settings_from_json({**record, "later": 1}) == parse(REQUIRED_VALUES)[0]
    del record["clip_at"]
    assert settings_from_json(record).clip_at == DEFAULTS["clip_at"]
