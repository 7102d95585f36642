"""The cache of encoded pictures gives back what was put in, from memory and from its file."""

import pytest
import torch

from lib_ti.data.latent_cache import LatentCache, LatentDistribution


def encoded(seed: int, weighted: bool, size: tuple[int, int] = (8, 8)) -> LatentDistribution:
    dice = torch.Generator().manual_seed(seed)
    mean, std = (torch.randn(4, *size, generator=dice) for _ in range(2))
    return LatentDistribution(mean, std, torch.rand(1, *size, generator=dice) if weighted else None)


PICTURES = {
    (0, False): encoded(0, weighted=False),
    (0, True): encoded(1, weighted=True),
    (1, False): encoded(2, weighted=True, size=(4, 16)),
    (2, False): encoded(3, weighted=False, size=(16, 4)),
}
EACH = 4 * (4 * 64 * 2)  # bytes of one without a weight


def assert_same(found: LatentDistribution, wanted: LatentDistribution) -> None:
    for name in ("mean", "std", "loss_weight"):
        a, b = getattr(found, name), getattr(wanted, name)
        assert (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b)), name


@pytest.fixture
def file(tmp_path):
    return tmp_path / "latents.cache"


@pytest.mark.parametrize(("bound", "on_disk"), [(1 << 30, 0), (2 * EACH, 3), (0, 4)])
def test_memory_and_disk_give_the_same(file, bound, on_disk):
    cache = LatentCache(file, bound)
    for place, picture in PICTURES.items():
        cache.put(*place, picture)
    for place in [*PICTURES, *reversed(PICTURES)]:
        assert_same(cache.get(*place), PICTURES[place])
    assert file.exists() == bool(on_disk)
    cache.close()
    assert not file.exists()


def test_the_bound_holds_to_the_byte(file):
    cache = LatentCache(file, EACH)
    cache.put(0, False, encoded(0, weighted=False))
    assert not file.exists()
    cache.put(1, False, encoded(1, weighted=False))
    cache.get(1, False)  # what was written is surely in the file once it can be read
    assert file.stat().st_size == EACH
    cache.close()


def test_reading_and_writing_may_alternate(file):
    cache = LatentCache(file, 0)
    for number, (place, picture) in enumerate(PICTURES.items()):
        cache.put(*place, picture)
        for earlier in [*PICTURES][number::-1]:  # backward, so that the next is not written where the reader stopped
            assert_same(cache.get(*earlier), PICTURES[earlier])
    cache.close()


def test_what_a_killed_run_left_is_not_read(file):
    file.write_bytes(b"\xff" * 10_000)
    cache = LatentCache(file, 0)
    cache.put(0, False, PICTURES[0, False])
    assert_same(cache.get(0, False), PICTURES[0, False])
    cache.close()
    assert not file.exists()


def test_what_is_got_is_the_callers_own(file):
    cache = LatentCache(file, 0)
    cache.put(0, False, PICTURES[0, False])
    cache.get(0, False).mean.zero_()
    assert_same(cache.get(0, False), PICTURES[0, False])
    cache.close()


def test_closing_an_unused_cache_leaves_nothing(file):
    LatentCache(file, 0).close()
    assert not file.exists()


def test_views_of_larger_tensors_are_stored_as_they_look(file):
    """A VAE's outputs come as slices of one batch."""
    batch = torch.randn(3, 8, 6, 5, generator=torch.Generator().manual_seed(0)).permute(0, 1, 3, 2)
    picture = LatentDistribution(batch[1, :4], batch[1, 4:], None)
    cache = LatentCache(file, 0)
    cache.put(0, False, picture)
    assert_same(cache.get(0, False), picture)
    cache.close()


def test_a_sample_is_the_mean_and_so_many_deviations():
    picture = encoded(0, weighted=False)
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(picture.sample(torch.zeros(4, 8, 8)), picture.mean)
    assert torch.allclose(picture.sample(noise) - picture.mean, picture.std * noise, atol=1e-6)
