"""Learning rates: parsing, and the rate at each step."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_ti.settings.lr_schedule import (
    RANDOM_WALK,
    InvalidLearningRate,
    LrSchedule,
    Stage,
    auto_learning_rate,
    parse_learning_rate,
)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("0.005", [Stage(0.005, None)]),
        (" 5e-3 ", [Stage(0.005, None)]),
        ("0.005:100", [Stage(0.005, 100)]),
        ("0.005:100, 1e-3:1000, 5e-4", [Stage(0.005, 100), Stage(0.001, 1000), Stage(0.0005, None)]),
        ("0.005 : 100 ,", [Stage(0.005, 100)]),
        ("0.005:10, 1e-3:-1", [Stage(0.005, 10), Stage(0.001, None)]),
        ("0.005:10,1e-3", [Stage(0.005, 10), Stage(0.001, None)]),
        ("5e-3:-1", [Stage(0.005, None)]),
    ],
)
def test_valid_learning_rates(text, stages):
    assert list(parse_learning_rate(text)) == stages


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"), (" , ", "empty"),
        ("abc", "'abc' is not a rate"), ("0.1:10:20", "'0.1:10:20' is not a rate"), ("0.1:", "is not a rate"),
        (":10", "is not a rate"), ("0.1:1.5", "is not a rate"), ("0,1 0", "0,1 has a comma; write 0.1"),
        ("0,005", "write 0.005"), ("0,005:100, 0,001", "write 0.005"), ("5,5", "write 5.5"),
        ("1e-3:-1, 0.1:5", "holds to the end"),
        ("0", "0 is not"), ("-0.001", "-0.001 is not"), ("nan", "nan is not"), ("inf", "inf is not"), ("1e999", "1e999 is not"),
        ("0.1:10, 0:20", "0 is not a finite number above 0"),
        ("0.1:0", "step 0"), ("0.1:-5", "step -5"),
        ("0.1:20, 0.2:20", "20 follows 20"), ("0.1:20, 0.2:10", "10 follows 20"),
        ("0.1, 0.2", "0.1 holds to the end"), ("0.1:10, 0.2, 0.3:30", "0.2 holds to the end"),
    ],
)  # fmt: skip
def test_invalid_learning_rates(text, reason):
    with pytest.raises(InvalidLearningRate, match=re.escape(reason)):
        parse_learning_rate(text)


@given(st.text() | st.text("0123456789.:,eE-+ _naif"))
def test_any_text_is_parsed_or_refused_in_one_line(text):
    stages, refusal = (), ""
    try:
        stages = parse_learning_rate(text)
    except InvalidLearningRate as error:
        refusal = str(error)
    assert bool(stages) != bool(refusal)
    assert len(refusal.splitlines()) <= 1
    assert all(0 < stage.rate < math.inf for stage in stages)
    ends = [stage.end_step for stage in stages]
    assert None not in ends[:-1]
    assert all(a < b for a, b in pairwise(ends) if b is not None)


RATES = st.floats(1e-12, 10)


@given(st.dictionaries(st.integers(1, 10**9), RATES, min_size=1), RATES | st.none())
def test_stages_round_trip_through_text(rates, last):
    stages = [Stage(rates[step], step) for step in sorted(rates)] + ([Stage(last, None)] if last else [])
    text = ", ".join(repr(s.rate) if s.end_step is None else f"{s.rate!r}:{s.end_step}" for s in stages)
    assert list(parse_learning_rate(text)) == stages


def test_piecewise_rates_apply_up_to_their_step():
    rate = LrSchedule(parse_learning_rate("0.005:100, 1e-3:1000, 5e-4"), steps=2000)
    # `at(99)` is the rate of the 100th update
    assert [rate.at(step) for step in (0, 99, 100, 999, 1000, 1999)] == [0.005, 0.005, 0.001, 0.001, 0.0005, 0.0005]


def test_last_rate_applies_to_the_end():
    assert LrSchedule(parse_learning_rate("0.1:10, 0.2:20"), steps=100).at(99) == 0.2


def test_single_rate_is_constant():
    rate = LrSchedule(parse_learning_rate("0.01"), steps=100)
    assert {rate.at(step) for step in range(100)} == {0.01}


@pytest.mark.parametrize(("decay", "quarter"), [("linear", 0.75), ("cosine", (1 + math.sqrt(0.5)) / 2)])
def test_decay_from_the_full_rate_to_zero(decay, quarter):
    rate = LrSchedule(parse_learning_rate("0.01"), steps=100, decay=decay)
    rates = [rate.at(step) for step in range(101)]
    assert [rates[0], rates[25], rates[50]] == pytest.approx([0.01, 0.01 * quarter, 0.005])
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_linear_warmup_then_decay():
    rate = LrSchedule(parse_learning_rate("0.01"), steps=14, decay="linear", warmup_steps=4)
    assert [rate.at(step) for step in range(4)] == pytest.approx([0.002, 0.004, 0.006, 0.008])
    assert [rate.at(step) for step in range(4, 14)] == pytest.approx([0.001 * n for n in range(10, 0, -1)])


@given(
    st.integers(1, 300), st.integers(0, 400), st.sampled_from(["constant", "linear", "cosine"]), st.floats(1e-6, 1.0)
)
def test_rate_is_positive_at_every_step(steps, warmup_steps, decay, rate):
    """Also where the warm-up is longer than the training: a step at rate 0 would be wasted."""
    schedule = LrSchedule((Stage(rate, None),), steps, decay, warmup_steps)
    assert all(0 < schedule.at(step) <= rate for step in range(steps))


def test_auto_rate_keeps_the_random_walk_as_long_for_every_width_and_length():
    for width, steps in ((128, 50), (768, 500), (1280, 3000)):
        assert auto_learning_rate(width, steps) * (width * steps) ** 0.5 == pytest.approx(RANDOM_WALK, rel=0.05)
    assert auto_learning_rate(768, 1) == auto_learning_rate(768, 25)
