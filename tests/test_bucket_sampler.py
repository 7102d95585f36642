"""The order of pictures: fair, in batches of one shape, and a function of the step alone."""

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from lib_ti.data.bucket_sampler import sample_batches
from lib_ti.randomness import derive_seed

GROUPS = st.lists(st.sampled_from(["square", "wide", "tall"]), min_size=1, max_size=12)
SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**63 - 1)


def first(count, groups, size, seed, start=0):
    return list(islice(sample_batches(groups, size, seed, start), count))


@given(GROUPS, SIZES, SEEDS, st.integers(1, 60))
def test_each_picture_is_used_as_often_as_any_other_up_to_one_batch(groups, size, seed, steps):
    """Also those of small groups, which fill no batch alone in a round."""
    used = Counter(picture for batch in first(steps, groups, size, seed) for picture in batch)
    counts = [used[picture] for picture in range(len(groups))]
    assert max(counts) - min(counts) <= size


@given(GROUPS, SIZES, SEEDS)
def test_a_batch_is_full_and_of_one_group(groups, size, seed):
    for batch in first(30, groups, size, seed):
        assert len(batch) == size
        assert len({groups[picture] for picture in batch}) == 1


@given(GROUPS, SIZES, SEEDS, st.integers(0, 50))
def test_a_restart_goes_on_as_if_nothing_had_happened(groups, size, seed, start):
    assert first(10, groups, size, seed, start) == first(start + 10, groups, size, seed)[start:]


@given(st.integers(1, 30), SEEDS)
def test_one_at_a_time_each_round_shows_all(count, seed):
    shown = [batch[0] for batch in first(3 * count, [0] * count, 1, seed)]
    rounds = [shown[i : i + count] for i in range(0, 3 * count, count)]
    assert all(sorted(pictures) == [*range(count)] for pictures in rounds)


def test_rounds_and_seeds_are_shuffled_differently():
    rounds = [batch for seed in (0, 1) for batch in first(3, [0] * 10, 10, seed)]
    assert len({tuple(batch) for batch in rounds}) == 6


def test_batches_are_the_callers_own():
    steps = sample_batches([0, 0], 2, 0)
    next(steps).clear()
    assert len(next(steps)) == 2


def test_a_run_goes_on_alike_on_another_machine_and_in_a_later_version():
    """Written down once: whoever changes these changes the rest of every stopped run."""
    assert derive_seed(0, "order", 1) == 4739946833832999988
    assert first(6, ["a", "b", "a", "a"], 2, seed=7) == [[3, 0], [2, 3], [2, 0], [1, 1], [0, 2], [3, 2]]


def test_draws_for_different_purposes_differ():
    draws = [
        derive_seed(*parts)
        for parts in ((0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a", 11), (0, "a1", 1))
    ]
    assert len(set(draws)) == len(draws)


@given(SEEDS, st.text(), st.integers())
def test_a_draw_is_a_seed_for_torch(seed, purpose, step):
    assert 0 <= derive_seed(seed, purpose, step) < 2**63
