"""Memory techniques change results only where documented, and the estimates match what the networks hold."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from reference.checkpoints import SIZES, write_checkpoint
from reference.trainings import run, settings_for

from lib_ti.embedding.read import read_embedding
from lib_ti.errors import TrainingFailed
from lib_ti.model.checkpoint.families import FAMILIES, SD1
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import estimate, fp8, malloc, meta_memory, vae_tiling
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.memory import peak as memory
from lib_ti.model.memory.estimate import Workload
from lib_ti.model.memory.lean_layers import use_lean_layers
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.speed.device import DTYPES
from lib_ti.model.speed.prepacked_conv import can_prepack
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.resume import resume
from lib_ti.settings.parsing import parse
from lib_ti.settings.train_settings import MEMORY_MODES, TrainSettings
from lib_ti.training.oom_recovery import is_oom_error
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.preview import OOM_WARNING

CPU = torch.device("cpu")


@pytest.fixture(scope="session", params=["small", "v", "deep", "sd2", "sdxl"])
def checkpoint(request, tmp_path_factory):
    path = write_checkpoint(tmp_path_factory.mktemp("economy") / "model.safetensors", SIZES[request.param])
    return open_checkpoint(path)


def load(checkpoint, mode: str | None = None, fp8: bool = False) -> StableDiffusion:
    model = StableDiffusion.load(checkpoint, torch.float32, CPU, fp8)
    if mode == "fast":
        use_lean_layers(model.unet)  # which a CPU would not be asked to do
    elif mode:
        memory_modes.apply(model, mode)
    return model


def gradients(model: StableDiffusion) -> list[torch.Tensor]:
    """Of the vectors, for a batch of two pictures; before them the prediction."""
    dice = torch.Generator().manual_seed(3)
    word = Placeholder("my-mug", 0, 2)
    tables = {
        name: torch.randn(2, table.shape[1], generator=dice) * 0.05 for name, table in model.token_embeddings().items()
    }
    vectors = {name: value.requires_grad_() for name, value in tables.items()}
    prompts = [model.tokenizer.encode(text, [word]) for text in ("a photo of my-mug", "my-mug on a table")]
    latents, noise = torch.randn(2, 2, model.latent_channels, 12, 8, generator=dice)
    output = model.predict(latents, torch.tensor([5, 800]), model.encode_prompts(prompts, vectors))
    (output - noise).square().mean().backward()
    return [output.detach(), *(value.grad for value in vectors.values())]


# --- FP8 ---------------------------------------------------------------------------------------------------------


def test_fp8_error_is_at_most_a_sixteenth():
    weight = (
        torch.randn(40, 30, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-6, 2, 40)[:, None, None, None]
    )
    weight[7] = 0
    packed, scale = fp8.quantize(weight)
    back = fp8.dequantize(packed, scale, torch.float32)
    assert packed.dtype == torch.float8_e4m3fn
    assert packed.element_size() == 1
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    assert bool(((back - weight).abs() <= weight.abs() / 16 + largest / 448 / 512).all())
    assert bool((back[7] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "layer", [torch.nn.Linear(24, 40), torch.nn.Conv2d(24, 40, 3, padding=1), torch.nn.Conv2d(24, 24, 3, 2, 1)]
)
def test_packed_layers_compute_with_restored_weights(layer, dtype):
    network = torch.nn.Module()
    network.mid_block = torch.nn.ModuleList([layer.__class__.__new__(layer.__class__)])
    network.mid_block[0].__dict__.update(layer.__dict__)
    network.mid_block[0]._parameters = {k: torch.nn.Parameter(v.to(dtype), False) for k, v in layer._parameters.items()}
    shape = (2, 24) if isinstance(layer, torch.nn.Linear) else (2, 24, 6, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    plain = network.mid_block[0]
    fp8.quantize_network(network)
    packed = network.mid_block[0]
    assert packed.weight.dtype == torch.float8_e4m3fn
    back = fp8.dequantize(packed.weight, packed.scale, dtype)
    output = packed(x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    how = (plain.stride, plain.padding) if isinstance(layer, torch.nn.Conv2d) else ()
    kind = torch.nn.functional.conv2d if how else torch.nn.functional.linear
    expected = kind(x, back, packed.bias, *how)
    assert torch.equal(output, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), x)[0])


def test_restored_weights_are_not_saved_for_backward(checkpoint):
    """Between forward and backward pass no tensor as large as a weight in fp32 is kept that is none of the model's."""
    model = load(checkpoint, "low")
    own = {t.untyped_storage().data_ptr() for n in model.networks for t in (*n.parameters(), *n.buffers())}
    shapes = {tuple(p.shape) for p in model.unet.parameters() if p.dtype == fp8.FP8}
    saved = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        gradients(model)
    foreign = [t for t in saved if t.untyped_storage().data_ptr() not in own]
    assert saved
    assert not [t.shape for t in foreign if tuple(t.shape) in shapes or tuple(t.shape[::-1]) in shapes]


def test_packing_while_loading_equals_packing_afterwards(checkpoint):
    at_once, afterwards = load(checkpoint, "low", fp8=True), load(checkpoint, "low")
    for a, b in zip(gradients(at_once), gradients(afterwards), strict=True):
        assert torch.equal(a, b)
    exact = load(checkpoint)
    for one, other in zip(at_once.token_embeddings().values(), exact.token_embeddings().values(), strict=True):
        assert torch.equal(one, other)  # what embeddings begin as
    packed = sum(p.numel() for n in (at_once.unet,) for p in n.parameters() if p.dtype == fp8.FP8)
    assert packed > 0.8 * sum(p.numel() for p in at_once.unet.parameters())


def test_fp8_gives_nearly_the_same_losses(tmp_path):
    from lib_ti.practice.concepts import CONCEPTS_DIR, PRACTICE_MODEL

    def losses(mode: str) -> list[float]:
        settings = settings_for(
            PRACTICE_MODEL, CONCEPTS_DIR / "coin", tmp_path, name=f"my-{mode}", steps="20", batch_size="2", memory=mode
        )
        return [e.data["loss"] for e in run(settings).history().steps.values()]

    exact, packed = losses("fast"), losses("low")
    assert packed == pytest.approx(exact, rel=0.05)
    assert sum(packed) == pytest.approx(sum(exact), rel=0.01)
    assert packed != exact


# --- recomputation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "balanced"])
def test_recomputation_gives_bit_identical_gradients(checkpoint, mode):
    for output, expected in zip(gradients(load(checkpoint, mode)), gradients(load(checkpoint)), strict=True):
        assert torch.equal(output, expected)


def test_each_mode_needs_less_memory(checkpoint):
    model = load(checkpoint)
    saved = [meta_memory.training_step(model, 128, 128, 1)]
    for mode in ("fast", "balanced"):
        use_lean_layers(model.unet) if mode == "fast" else memory_modes.apply(model, mode)
        saved.append(meta_memory.training_step(model, 128, 128, 1))
    for (peak, between), (less, less_between) in pairwise(saved):
        assert less < peak
        assert less_between < between


def test_token_tables_can_stay_on_the_cpu(checkpoint):
    model = load(checkpoint)
    expected = gradients(load(checkpoint))
    for encoder in model.prompt_encoder.encoders.values():
        encoder.keep_token_table_on_cpu()
        encoder.keep_token_table_on_cpu()
        encoder.model.to(torch.float64).to("meta")
        assert encoder.token_table.device == CPU
        assert encoder.token_table.dtype == torch.float32
    model = load(checkpoint)
    for encoder in model.prompt_encoder.encoders.values():
        encoder.keep_token_table_on_cpu()
    assert all(map(torch.equal, gradients(model), expected))


def test_a_mode_can_be_applied_twice(checkpoint):
    model = load(checkpoint, "balanced")
    expected = gradients(model)
    memory_modes.apply(model, "balanced")
    memory_modes.apply(model, "fast")
    assert all(map(torch.equal, gradients(model), expected))


# --- VAE tiling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [1, 1 << 11, 1 << 14, 1 << 24])
def test_tiled_vae_gives_the_same_images(checkpoint, numbers, monkeypatch):
    monkeypatch.setattr(vae_tiling, "TILE_NUMEL", numbers)
    whole, tiled = load(checkpoint), load(checkpoint)
    memory_modes.reduce_vae_memory(tiled)
    dice = torch.Generator().manual_seed(1)
    latents = torch.randn(2, whole.latent_channels, 9, 12, generator=dice)
    torch.testing.assert_close(tiled.decode_latents(latents), whole.decode_latents(latents), rtol=0, atol=1e-4)
    pixels = torch.rand(1, 3, 8 * whole.vae_scale_factor, 6 * whole.vae_scale_factor, generator=dice) * 2 - 1
    for output, expected in zip(tiled.encode_images(pixels), whole.encode_images(pixels), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)


def test_tiled_vae_needs_less_memory():
    usual, tiled = (meta_memory.empty_model(SD1, torch.bfloat16, mode) for mode in (None, "low"))
    sides = (1024, 1024)
    with torch.no_grad():
        for kind, most in (("decoding", 0.7), ("encoding", 0.6)):
            a, b = (meta_memory.peak_bytes(m, meta_memory.single_image_tasks(m, *sides)[kind]) for m in (usual, tiled))
            assert b < most * a


# --- the estimates -----------------------------------------------------------------------------------------------


def test_live_tensors_counts_bytes():
    held = torch.empty(100)
    with meta_memory.LiveTensors([held]) as live:
        a = torch.empty(1000)
        b = a.view(10, 100)
        c = torch.empty(2000)
        del c
        d = torch.empty(500)
        assert live.live_bytes() == 4 * (100 + 1000 + 500)
    assert live.peak == 4 * (100 + 1000 + 2000)
    assert len(b) + len(d)


@pytest.mark.parametrize(
    ("mode", "precision"), [*((mode, "bf16") for mode in MEMORY_MODES), ("fast", "fp32"), ("low", "fp32")]
)
def test_estimate_matches_the_networks(mode, precision):
    side, batch = 448, 2
    for on_gpu in (True, False) if mode == "fast" else (True,):
        known = estimate.NetworkMemory("sd1", mode, precision, on_gpu)
        model = meta_memory.empty_model(SD1, DTYPES[precision], mode if on_gpu else None)
        assert known.unet == meta_memory.weight_bytes(model.unet)
        (text,) = model.prompt_encoder.encoders.values()
        assert known.text == meta_memory.weight_bytes(text.model) - (text.token_table.nbytes if on_gpu else 0)
        assert known.vae == meta_memory.weight_bytes(model.vae)
        counted = meta_memory.training_step(model, side, side, batch)[0]
        assert batch * known.activations("step", side**2) == pytest.approx(counted, rel=0.05)
        with torch.no_grad():
            for kind, work in meta_memory.single_image_tasks(model, side, side).items():
                whole = known.unet + meta_memory.peak_bytes(model, work)
                assert known.unet + known.activations(kind, side**2) == pytest.approx(
                    whole, rel=0.06
                )  # tiles are fp32 in any precision


def test_meta_device_counts_as_the_cpu_does(checkpoint):
    """The same networks on the CPU and on the meta device; attention has its own ways there and its own stand-in here."""
    real = load(checkpoint, "balanced")
    empty = load(checkpoint)
    for network in empty.networks:
        network.to("meta")
    empty.device = meta_memory.META
    memory_modes.apply(empty, "balanced")
    assert meta_memory.count_activations(empty, 128, 96, 2).saved_for_backward == pytest.approx(
        meta_memory.count_activations(real, 128, 96, 2).saved_for_backward, rel=0.03
    )


def gb(family: str, mode: str, side: int, precision: str = "bf16") -> float:
    """As cards count them: 1024 MB each."""
    return estimate.needed_mb(family, mode, precision, Workload(1, side**2, side**2), on_gpu=True) / 1024


def test_estimates_fit_small_gpus():
    assert gb("sd1", "fast", 512) <= 2.98
    assert gb("sdxl", "balanced", 1024) <= 7.9
    assert gb("sdxl", "low", 1024) <= 5.2
    assert gb("sdxl", "low", 1024, "fp16") <= 5.2


def test_readme_has_the_estimates():
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for family, title, side in (("sd1", "SD 1.x", 512), ("sd2", "SD 2.x", 768), ("sdxl", "SDXL", 1024)):
        cells = " | ".join(f"{gb(family, mode, side):.1f}" for mode in MEMORY_MODES)
        assert f"| {title}, {side} pixels | {cells} |" in text
    least = re.search(r"card of (\d+) GB is enough for SD 1.x and 2.x, one of (\d+) GB for SDXL", text)
    for card, family, side in ((least[1], "sd1", 512), (least[1], "sd2", 768), (least[2], "sdxl", 1024)):
        assert gb(family, "low", side, "fp16") <= 0.85 * int(card)  # the rest is the desktop's


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_estimates_grow_with_the_workload_and_shrink_with_the_mode(family, on_gpu):
    def needed(mode: str, batch: int = 1, side: int = 512) -> float:
        return estimate.needed_mb(family, mode, "bf16", Workload(batch, side**2, side**2), on_gpu)

    assert needed("fast") > needed("balanced") > needed("low")
    for mode in MEMORY_MODES:
        assert needed(mode, batch=16) > needed(mode)
        assert needed(mode, side=1024) > needed(mode)


def test_memory_mode_is_the_first_that_fits():
    work = Workload(1, 1024**2, 1024**2)
    needed = [estimate.needed_mb("sdxl", mode, "bf16", work, on_gpu=True) for mode in MEMORY_MODES]

    def picked(free_mb: float | None, **options: str) -> str:
        settings, _ = parse(options)
        return estimate.pick_memory_mode(settings, "sdxl", "bf16", 1024, free_mb, on_gpu=True)[0]

    assert [picked(free) for free in (99_999, needed[0] - 1, needed[1] - 1, 10)] == ["fast", "balanced", "low", "low"]
    assert picked(99_999, gradient_checkpointing="true") == "balanced"
    assert picked(10, memory="fast") == "fast"
    assert picked(None) == "fast"


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "checkpointing", "modes"),
    [
        ("auto", False, MEMORY_MODES), ("auto", True, ("balanced", "low")), ("fast", False, ("fast",)),
        ("fast", True, ("balanced",)), ("low", False, ("low",)), ("low", True, ("low",)),
    ],
)  # fmt: skip
def test_gradient_checkpointing_means_balanced_at_least(memory, checkpointing, modes):
    settings, _ = parse({"memory": memory, "gradient_checkpointing": checkpointing})
    assert settings.memory_modes == modes


def test_run_without_a_memory_option_resumes(tiny_checkpoint, pictures, tmp_path):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path, gradient_checkpointing="true")))
    path = folder.path / "settings.json"
    stored = json.loads(path.read_text())
    del stored["settings"]["memory"]
    path.write_text(json.dumps(stored))
    assert execute_run(folder)
    assert folder.settings.memory == "balanced"
    assert folder.history().memory.data["mode"] == "balanced"


# --- out of memory ----------------------------------------------------------------------------------------------


class OutOfMemory:
    """Lets calls of a method fail for want of memory while `fails(call, arguments)` says so. Counts calls from 0."""

    def __init__(self, monkeypatch, owner, name, fails, error=torch.cuda.OutOfMemoryError):
        self.calls = self.failed = 0
        inner = getattr(owner, name)

        def method(*arguments, **named):
            call, self.calls = self.calls, self.calls + 1
            if fails(call, arguments):
                self.failed += 1
                raise error("CUDA out of memory. Tried to allocate 2.00 GiB")
            return inner(*arguments, **named)

        monkeypatch.setattr(owner, name, method)


def training(call, arguments) -> bool:
    return torch.is_grad_enabled()


def vectors(folder: RunFolder) -> torch.Tensor:
    return read_embedding(folder.embedding).vectors["clip_l"]


def warnings(folder: RunFolder) -> list[str]:
    return [event.data["message"] for event in folder.history().warnings]


def losses(folder: RunFolder) -> list[float]:
    return [event.data["loss"] for event in folder.history().steps.values()]


@pytest.mark.faults("memory that runs out")
def test_oom_halves_the_batch_and_loses_no_step(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    def settings(name: str, **more: str) -> TrainSettings:
        return settings_for(
            tiny_checkpoint, pictures, tmp_path, name="my-mug", out=str(tmp_path / name), steps="5", **more
        )

    expected = run(settings("a", batch_size="1", gradient_accumulation="4"))
    seen = []

    def too_many(_, arguments):
        seen.append(len(arguments[1]))
        return torch.is_grad_enabled() and len(arguments[1]) > 1

    out_of_memory = OutOfMemory(monkeypatch, StableDiffusion, "predict", too_many)
    folder = run(settings("b", batch_size="4"))
    assert out_of_memory.failed == 2
    assert seen[-20:] == [1] * 20
    assert folder.embedding.read_bytes() == expected.embedding.read_bytes()
    assert losses(folder) == losses(expected)
    assert (folder.settings.batch_size, folder.settings.gradient_accumulation) == (1, 4)
    assert [w for w in warnings(folder) if "pictures are taken at a time" in w] == [
        "the memory ran out: 2 instead of 4 pictures are taken at a time, which changes nothing but the time",
        "the memory ran out: 1 instead of 2 pictures are taken at a time, which changes nothing but the time",
    ]


@pytest.mark.faults("memory that runs out")
def test_oom_within_a_step_repeats_the_whole_step(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    """In the second micro-batch of the third step, when the first one's gradient is there already."""
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, steps="5", gradient_accumulation="2")
    expected = run(replace(settings, out=tmp_path / "expected"))
    count = iter(range(1000))
    out_of_memory = OutOfMemory(
        monkeypatch, StableDiffusion, "predict", lambda *_: torch.is_grad_enabled() and next(count) == 5
    )
    folder = run(settings)
    assert out_of_memory.failed == 1
    assert folder.embedding.read_bytes() == expected.embedding.read_bytes()
    assert losses(folder) == losses(expected)
    assert folder.settings.memory == "balanced"
    assert folder.history().memory.data["mode"] == "balanced"
    assert any("computed twice" in warning for warning in warnings(folder))


@pytest.mark.faults("memory that runs out")
def test_oom_in_the_low_mode_ends_the_training_with_advice(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path, batch_size="2")))
    OutOfMemory(monkeypatch, StableDiffusion, "predict", training)
    with pytest.raises(TrainingFailed, match=r"not enough memory for this training.*--resolution"):
        execute_run(folder)
    assert (folder.settings.memory, folder.settings.batch_size) == ("low", 1)
    assert len(warnings(folder)) == 3
    monkeypatch.undo()
    resume(folder, {})
    assert execute_run(folder)  # a resume begins where this one ended
    assert folder.history().memory.data == {"mode": "low", "batch_size": 1, "acceleration": "none"}
    assert len(warnings(folder)) == 3


@pytest.mark.skipif(not can_prepack(torch.float32), reason="this torch has no oneDNN")
def test_impossible_acceleration_is_replaced_in_the_settings(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    """Leaner modes have no second copy of weights, and another torch may not have any."""
    plan = preflight(settings_for(tiny_checkpoint, pictures, tmp_path, acceleration="arranged", memory="balanced"))
    assert plan.settings.acceleration == "arranged"
    folder = create_run(plan)
    assert execute_run(folder)
    assert folder.settings.acceleration == folder.history().memory.data["acceleration"] == "none"
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, acceleration="arranged", name="my-cup")
    other = create_run(preflight(settings))
    monkeypatch.setattr("lib_ti.model.memory.modes.can_prepack", lambda dtype: False)
    assert execute_run(other)
    assert other.settings.acceleration == "none"


@pytest.mark.faults("memory that runs out")
def test_oom_while_loading_leads_to_the_low_mode(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    load = StableDiffusion.load.__func__

    def scarce(cls, checkpoint, dtype, device, fp8=False):
        if not fp8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return load(cls, checkpoint, dtype, device, fp8)

    monkeypatch.setattr(StableDiffusion, "load", classmethod(scarce))
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path))
    assert folder.settings.memory == "low"


@pytest.mark.faults("memory that runs out")
def test_oom_while_encoding_leads_to_the_next_mode(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    expected = run(settings_for(tiny_checkpoint, pictures, tmp_path))
    out_of_memory = OutOfMemory(monkeypatch, StableDiffusion, "encode_images", lambda call, _: call == 2)
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, out=str(tmp_path / "b")))
    assert out_of_memory.failed == 1
    assert folder.settings.memory == "balanced"
    torch.testing.assert_close(vectors(folder), vectors(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.faults("memory that runs out")
def test_oom_in_a_preview_skips_it(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    options = {"steps": "4", "preview_every": "2", "preview_steps": "2", "preview_prompt": "my [name]"}
    expected = run(settings_for(tiny_checkpoint, pictures, tmp_path, name="my-mug", **options))
    (tmp_path / "out" / "my-mug.safetensors").unlink()
    out_of_memory = OutOfMemory(monkeypatch, StableDiffusion, "decode_latents", lambda call, _: call in (1, 2))
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, **options))
    assert out_of_memory.failed == 2  # once as it was, and once with more room
    assert folder.embedding.read_bytes() == expected.embedding.read_bytes()
    assert warnings(folder) == [OOM_WARNING.format("preview")]
    assert sorted({step for step, _, _ in folder.history().previews}) == [0, 4]


@pytest.mark.parametrize(
    ("error", "is_oom"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_is_oom_error(error, is_oom):
    assert is_oom_error(error) is is_oom


def test_other_errors_are_raised(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path)))
    OutOfMemory(monkeypatch, StableDiffusion, "predict", training, error=ZeroDivisionError)
    with pytest.raises(TrainingFailed, match="ZeroDivisionError"):
        execute_run(folder)


def test_estimates_do_not_import_torch():
    program = (
        "import sys; from lib_ti.model.memory import estimate; estimate.parameters_of('sdxl'); "
        "print('torch' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    answer = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_peak_excludes_mapped_files():
    status = "Name:\tpython\nVmHWM:\t 9000000 kB\nVmRSS:\t 8000000 kB\nRssAnon:\t 5000000 kB\nRssFile:\t 3000000 kB\n"
    assert memory._peak_without_files(status) == 6_000_000
    assert memory.peak_mb(torch.device("cpu")) > 50


def test_reset_peak_memory(monkeypatch, tmp_path):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("only Linux counts anew")
    large = torch.ones(1 << 26)  # 256 MB
    before = memory.peak_mb(torch.device("cpu"))
    del large
    memory.reset_peak_memory()
    assert memory.peak_mb(torch.device("cpu")) < before - 200
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "no" / "clear_refs")
    memory.reset_peak_memory()  # elsewhere nothing comes of it


def test_trim_after_every_so_many_bytes(monkeypatch):
    given = []
    monkeypatch.setattr(malloc, "trim", lambda: given.append(1))
    trimmer = malloc.TrimAfter()
    for _ in range(8):
        trimmer.freed(malloc.TRIM_EVERY // 4)
    assert len(given) == 2


@pytest.mark.parametrize("reason", [AttributeError, OSError, TypeError])
def test_trim_does_nothing_with_another_c_library(monkeypatch, reason):
    def none(_):
        raise reason

    monkeypatch.setattr(malloc.ctypes, "CDLL", none)
    assert malloc._glibc_function("malloc_trim")(0) is None


def test_freed_memory_is_kept_within_the_context(monkeypatch):
    options = []
    monkeypatch.setattr(malloc, "_mallopt", lambda option, value: options.append(option))
    monkeypatch.setattr(malloc, "_malloc_trim", lambda _: options.append("trim"))
    with suppress(KeyError), malloc.keep_freed_memory():
        assert options == [malloc.MMAP_MAX, malloc.TRIM_THRESHOLD]
        raise KeyError
    assert options[2:] == [*malloc.RESTORED, "trim"]
