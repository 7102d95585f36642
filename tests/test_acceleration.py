"""Accelerated steps: the same results but for rounding, and a fallback."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from reference.checkpoints import SIZES, write_checkpoint
from reference.trainings import run, settings_for
from safetensors.torch import load_file

from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.speed import prepacked_conv
from lib_ti.model.speed.cuda_graphs import MAX_GRAPHS, GraphedCallable
from lib_ti.model.speed.device import choose_acceleration
from lib_ti.model.speed.prepacked_conv import PrepackedConv2d, can_prepack, prepack, prepacked_speedup
from lib_ti.practice.concepts import PRACTICE_MODEL
from lib_ti.runs.events import read_events

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(not can_prepack(torch.float32), reason="this torch has no oneDNN")


def random_tensor(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_onednn
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(("inner", "outer"), [(16, 48), (48, 16)])
def test_prepacked_convolution_matches_torch(inner, outer, padding):
    plain = torch.nn.Conv2d(inner, outer, 3, padding=padding).requires_grad_(False)
    network = torch.nn.Sequential(torch.nn.Conv2d(inner, outer, 3, padding=padding).requires_grad_(False))
    network.load_state_dict({"0.weight": plain.weight, "0.bias": plain.bias})
    prepack(network, backward=True)
    assert isinstance(network[0], PrepackedConv2d)
    assert [name for name, _ in network.named_parameters()] == ["0.bias"]
    x = random_tensor(2, inner, 9, 7).requires_grad_()
    output, reference = network(x), plain(x)
    torch.testing.assert_close(output, reference, atol=1e-5, rtol=1e-5)
    g = random_tensor(*reference.shape, seed=1)
    (gradient,) = torch.autograd.grad(output, x, g)
    torch.testing.assert_close(gradient, torch.autograd.grad(reference, x, g)[0], atol=1e-5, rtol=1e-5)


@needs_onednn
def test_strided_convolutions_are_prepacked_without_gradients():
    plain = torch.nn.Conv2d(3, 8, 3, stride=2).requires_grad_(False)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2).requires_grad_(False))
    network.load_state_dict({"0.weight": plain.weight, "0.bias": plain.bias})
    prepack(network, backward=False)
    assert isinstance(network[0], PrepackedConv2d)
    torch.testing.assert_close(
        network(random_tensor(1, 3, 9, 9)), plain(random_tensor(1, 3, 9, 9)), atol=1e-5, rtol=1e-5
    )


def test_other_convolutions_stay():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(32, 32, 1),
        torch.nn.Conv2d(32, 32, 3, padding=1, groups=2),
        torch.nn.Conv2d(32, 32, 3, padding=1, stride=2),
        torch.nn.Conv2d(32, 4, 3, padding=1),
        torch.nn.Conv2d(32, 32, 3, padding="same"),
        torch.nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
    )
    prepack(network, backward=True)
    assert all(type(layer) is torch.nn.Conv2d for layer in network)


@needs_onednn
@pytest.mark.parametrize("sizes", ["small", "sd2", "sdxl"])
def test_prepacked_training_gives_the_same_vectors(sizes, tmp_path, monkeypatch):
    """The losses, and the vectors learned, are the same but for fp32's rounding."""
    monkeypatch.setattr(prepacked_conv, "MIN_CHANNELS", 4)  # these models' widths
    checkpoint = write_checkpoint(tmp_path / "model.safetensors", SIZES[sizes])
    (tmp_path / "pictures").mkdir()
    for i in range(2):  # not plain ones, whose norms would divide rounding by next to nothing
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{i}.png")
    output = {}
    for how in ("none", "arranged"):
        (tmp_path / how).mkdir()
        requested = settings_for(checkpoint, tmp_path / "pictures", tmp_path / how, steps="3", acceleration=how)
        folder = run(requested)
        assert folder.settings.acceleration == how
        losses = [event.data["loss"] for event in read_events(folder.events)[0] if event.kind == "step"]
        output[how] = losses, load_file(folder.settings.out / "my-mug.safetensors")
    (losses, vectors), (plain_losses, plain_vectors) = output["arranged"], output["none"]
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    for name, plain in plain_vectors.items():
        torch.testing.assert_close(vectors[name], plain, atol=1e-4, rtol=1e-3)


@needs_onednn
def test_prepacked_vae_gives_the_same_images():
    model = StableDiffusion.load(open_checkpoint(PRACTICE_MODEL), torch.float32, CPU)
    pixels = random_tensor(1, 3, 64, 64).clamp(-1, 1)
    before = model.encode_images(pixels)[0], model.decode_latents(random_tensor(1, 4, 8, 8))
    memory_modes.apply(model, "fast", "arranged")
    after = model.encode_images(pixels)[0], model.decode_latents(random_tensor(1, 4, 8, 8))
    for output, reference in zip(after, before, strict=True):
        torch.testing.assert_close(output, reference, atol=1e-4, rtol=1e-4)


def compute(x, y):
    return (x * y).sum(0)


def test_graph_is_captured_when_a_shape_repeats():
    captures = []

    def capture(way, samples):
        captures.append([tuple(s.shape) for s in samples])
        return way

    graphed = GraphedCallable(compute, lambda: capture)
    for size in (2, 3, 4, 2, 3, 2, 3):
        x, y = random_tensor(size, 4), random_tensor(size, 4).requires_grad_()
        torch.testing.assert_close(graphed(x, y), compute(x, y))
    assert captures == [[(2, 4), (2, 4)], [(3, 4), (3, 4)]]
    with torch.no_grad():
        graphed(random_tensor(5, 4), random_tensor(5, 4))
    graphed(random_tensor(6, 4), random_tensor(6, 4))  # no input requires a gradient
    assert len(captures) == 2
    assert not graphed.failure


def test_released_graphs_are_captured_again():
    sets, launched = [], []

    def capturing():
        sets.append([])

        def capture(way, samples):
            sets[-1].append([tuple(s.shape) for s in samples])
            return lambda *inputs: launched.append(1) or way(*inputs)

        return capture

    graphed = GraphedCallable(compute, capturing)
    x, y = random_tensor(2, 4), random_tensor(2, 4).requires_grad_()
    assert not graphed.release()
    for _ in range(3):
        graphed(x, y)
    assert len(launched) == 3, "once tried out, twice in use"
    assert graphed.release()
    assert not graphed.release()
    torch.testing.assert_close(graphed(x, y), compute(x, y))
    assert sets == [[[(2, 4), (2, 4)]]] * 2
    assert len(launched) == 4, "what is proven is not tried out again"


def test_number_of_graphs_is_limited():
    captures = []
    graphed = GraphedCallable(compute, lambda: lambda way, _: captures.append(1) or way)
    for size in [*range(1, MAX_GRAPHS + 3)] * 3:
        graphed(random_tensor(size, 4), random_tensor(size, 4).requires_grad_())
    assert len(captures) == MAX_GRAPHS


@pytest.mark.parametrize(
    "capture",
    [
        lambda way, _: lambda x, y: way(x, y) * 1.1,
        lambda way, _: lambda x, y: way(x, y * 1.1 - y.detach() * 0.1),  # the prediction is right, its gradient is not
    ],
    ids=["prediction", "gradient"],
)
def test_graph_with_different_results_is_not_used(capture):
    graphed = GraphedCallable(compute, lambda: capture)
    x, y = random_tensor(2, 4), random_tensor(2, 4).requires_grad_()
    for _ in range(2):
        torch.testing.assert_close(graphed(x, y), compute(x, y))
    assert "differ" in graphed.failure


def test_failed_capture_falls_back_to_eager(caplog):
    def capture(way, _):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    graphed = GraphedCallable(compute, lambda: capture)
    x, y = random_tensor(2, 4), random_tensor(2, 4).requires_grad_()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.testing.assert_close(graphed(x, y), compute(x, y))
    assert graphed.failure == "operation not permitted when stream is capturing"
    assert "CUDA graphs cannot be used" in caplog.text
    torch.testing.assert_close(graphed(x, y), compute(x, y))


def test_oom_while_capturing_is_raised():
    def capture(way, _):
        raise torch.cuda.OutOfMemoryError("out of memory")

    graphed = GraphedCallable(compute, lambda: capture)
    graphed(random_tensor(2, 4), random_tensor(2, 4).requires_grad_())
    with pytest.raises(torch.cuda.OutOfMemoryError):
        graphed(random_tensor(2, 4), random_tensor(2, 4).requires_grad_())
    assert graphed.failure


@pytest.mark.parametrize(
    ("requested", "device", "reason"), [("graphs", "cpu", "for a card"), ("arranged", "cuda", "for a CPU")]
)
def test_unsupported_acceleration_is_refused(requested, device, reason):
    with pytest.raises(ValueError, match=reason):
        choose_acceleration(requested, torch.device(device), "fp32", 10**9)


def test_auto_acceleration():
    assert choose_acceleration("auto", torch.device("cuda"), "bf16", 10**9) == "graphs"
    assert (
        choose_acceleration("auto", CPU, "fp32", 10**6) == "none"
    )  # the practice model's results are the same to the byte
    assert choose_acceleration("none", CPU, "fp32", 10**9) == "none"
    assert choose_acceleration("auto", CPU, "fp32", 10**9, resolution=64) == "none"  # feature maps too small to gain


@needs_onednn
def test_gain_is_measured():
    assert prepacked_speedup(torch.float32) > 0
