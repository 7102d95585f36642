"""The latent cache returns what was put in, from memory and from its file."""

import pytest
import torch

from lib_ti.data.latent_cache import LatentCache, LatentDistribution


def random_latents(seed: int, weighted: bool, size: tuple[int, int] = (8, 8)) -> LatentDistribution:
    generator = torch.Generator().manual_seed(seed)
    mean, std = (torch.randn(4, *size, generator=generator) for _ in range(2))
    return LatentDistribution(mean, std, torch.rand(1, *size, generator=generator) if weighted else None)


LATENTS = {
    (0, False): random_latents(0, weighted=False),
    (0, True): random_latents(1, weighted=True),
    (1, False): random_latents(2, weighted=True, size=(4, 16)),
    (2, False): random_latents(3, weighted=False, size=(16, 4)),
}
ENTRY_BYTES = 4 * (4 * 64 * 2)  # of an entry without a loss weight


def assert_equal(actual: LatentDistribution, expected: LatentDistribution) -> None:
    for name in ("mean", "std", "loss_weight"):
        a, b = getattr(actual, name), getattr(expected, name)
        assert (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b)), name


@pytest.fixture
def file(tmp_path):
    return tmp_path / "latents.cache"


@pytest.mark.parametrize(("max_bytes", "on_disk"), [(1 << 30, 0), (2 * ENTRY_BYTES, 3), (0, 4)])
def test_memory_and_disk_return_the_same(file, max_bytes, on_disk):
    cache = LatentCache(file, max_bytes)
    for key, latents in LATENTS.items():
        cache.put(*key, latents)
    for key in [*LATENTS, *reversed(LATENTS)]:
        assert_equal(cache.get(*key), LATENTS[key])
    assert file.exists() == bool(on_disk)
    cache.close()
    assert not file.exists()


def test_memory_limit_is_exact(file):
    cache = LatentCache(file, ENTRY_BYTES)
    cache.put(0, False, random_latents(0, weighted=False))
    assert not file.exists()
    cache.put(1, False, random_latents(1, weighted=False))
    cache.get(1, False)  # reading flushes what was written
    assert file.stat().st_size == ENTRY_BYTES
    cache.close()


def test_reads_and_writes_may_alternate(file):
    cache = LatentCache(file, 0)
    for i, (key, latents) in enumerate(LATENTS.items()):
        cache.put(*key, latents)
        for earlier in [*LATENTS][i::-1]:  # backward, so that the next write does not start where the last read ended
            assert_equal(cache.get(*earlier), LATENTS[earlier])
    cache.close()


def test_file_of_a_killed_run_is_overwritten(file):
    file.write_bytes(b"\xff" * 10_000)
    cache = LatentCache(file, 0)
    cache.put(0, False, LATENTS[0, False])
    assert_equal(cache.get(0, False), LATENTS[0, False])
    cache.close()
    assert not file.exists()


def test_entries_are_copies(file):
    cache = LatentCache(file, 0)
    cache.put(0, False, LATENTS[0, False])
    cache.get(0, False).mean.zero_()
    assert_equal(cache.get(0, False), LATENTS[0, False])
    cache.close()


def test_unused_cache_creates_no_file(file):
    LatentCache(file, 0).close()
    assert not file.exists()


def test_non_contiguous_tensors_are_stored_correctly(file):
    """The VAE's outputs are slices of one batch."""
    batch = torch.randn(3, 8, 6, 5, generator=torch.Generator().manual_seed(0)).permute(0, 1, 3, 2)
    latents = LatentDistribution(batch[1, :4], batch[1, 4:], None)
    cache = LatentCache(file, 0)
    cache.put(0, False, latents)
    assert_equal(cache.get(0, False), latents)
    cache.close()


def test_sample_is_mean_plus_std_times_noise():
    latents = random_latents(0, weighted=False)
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(latents.sample(torch.zeros(4, 8, 8)), latents.mean)
    assert torch.allclose(latents.sample(noise) - latents.mean, latents.std * noise, atol=1e-6)
