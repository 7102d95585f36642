"""Batches use all images equally often, hold one bucket each, and depend on seed and step alone."""

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from lib_ti.data.bucket_sampler import sample_batches
from lib_ti.randomness import derive_seed

BUCKETS = st.lists(st.sampled_from(["square", "wide", "tall"]), min_size=1, max_size=12)
BATCH_SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**63 - 1)


def first_batches(count, buckets, batch_size, seed, start=0):
    return list(islice(sample_batches(buckets, batch_size, seed, start), count))


@given(BUCKETS, BATCH_SIZES, SEEDS, st.integers(1, 60))
def test_images_are_used_equally_often_up_to_one_batch(buckets, batch_size, seed, steps):
    """Also those of small buckets, which fill no batch within one epoch."""
    used = Counter(index for batch in first_batches(steps, buckets, batch_size, seed) for index in batch)
    counts = [used[index] for index in range(len(buckets))]
    assert max(counts) - min(counts) <= batch_size


@given(BUCKETS, BATCH_SIZES, SEEDS)
def test_batches_are_full_and_of_one_bucket(buckets, batch_size, seed):
    for batch in first_batches(30, buckets, batch_size, seed):
        assert len(batch) == batch_size
        assert len({buckets[index] for index in batch}) == 1


@given(BUCKETS, BATCH_SIZES, SEEDS, st.integers(0, 50))
def test_resuming_continues_identically(buckets, batch_size, seed, start):
    assert (
        first_batches(10, buckets, batch_size, seed, start)
        == first_batches(start + 10, buckets, batch_size, seed)[start:]
    )


@given(st.integers(1, 30), SEEDS)
def test_each_epoch_uses_every_image_once(count, seed):
    indices = [batch[0] for batch in first_batches(3 * count, [0] * count, 1, seed)]
    epochs = [indices[i : i + count] for i in range(0, 3 * count, count)]
    assert all(sorted(epoch) == [*range(count)] for epoch in epochs)


def test_epochs_and_seeds_are_shuffled_differently():
    epochs = [batch for seed in (0, 1) for batch in first_batches(3, [0] * 10, 10, seed)]
    assert len({tuple(batch) for batch in epochs}) == 6


def test_yielded_batches_are_copies():
    steps = sample_batches([0, 0], 2, 0)
    next(steps).clear()
    assert len(next(steps)) == 2


def test_order_is_stable_across_machines_and_versions():
    """Golden values: changing them would change how every stopped run continues."""
    assert derive_seed(0, "order", 1) == 4739946833832999988
    assert first_batches(6, ["a", "b", "a", "a"], 2, seed=7) == [[3, 0], [2, 3], [2, 0], [1, 1], [0, 2], [3, 2]]


def test_derived_seeds_differ_by_purpose():
    seeds = [
        derive_seed(*parts)
        for parts in ((0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a", 11), (0, "a1", 1))
    ]
    assert len(set(seeds)) == len(seeds)


@given(SEEDS, st.text(), st.integers())
def test_derived_seed_is_valid_for_torch(seed, purpose, step):
    assert 0 <= derive_seed(seed, purpose, step) < 2**63
