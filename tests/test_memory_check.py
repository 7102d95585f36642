"""The form's forecast of memory and time: measured, estimated or unknown."""

import json

import pytest
import torch

pytest.importorskip("gradio")

from lib_ti.data.captions import preview_count
from lib_ti.model.memory import estimate
from lib_ti.runs.events import Event
from lib_ti.settings.parsing import parse
from lib_ti.settings.train_settings import DEFAULTS, MEMORY_MODES
from lib_ti.training.preflight import resolve_auto
from lib_ti.webui.forms import form_to_settings, memory
from lib_ti.webui.forms.launch import next_memory_mode
from lib_ti.webui.forms.memory import GpuMemory, MemoryForecast, forecast_memory, gpu_memory
from lib_ti.webui.forms.speed import Measurement, SpeedRecords, measure_run
from lib_ti.webui.forms.typical_speed import typical_estimate


def settings(**options):
    return parse({"model": "m", "images": "i", "name": "n", "out": "o", **options})[0]


@pytest.fixture(autouse=True)
def _no_real_gpu(monkeypatch):
    memory._query_nvidia_smi.cache_clear()
    monkeypatch.setattr(memory.shutil, "which", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def host_gpu(monkeypatch, free: int, total: int, reserved: int, capability: tuple[int, int] = (8, 6)):
    """This process has a CUDA context on a GPU with so many MiB."""
    functions = {
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "mem_get_info": lambda device: (free << 20, total << 20),
        "memory_reserved": lambda device: reserved << 20,
        "get_device_capability": lambda device: capability,
    }
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)


@pytest.mark.parametrize(("host_keeps_model", "free"), [(False, 11_000), (True, 4_000)])
def test_memory_that_the_host_can_release_counts_as_free(monkeypatch, host_keeps_model, free):
    host_gpu(monkeypatch, 4_000, 12_288, 7_000)
    assert gpu_memory("cuda:0", host_keeps_model) == GpuMemory(12_288, free)
    assert gpu_memory("cpu") is None


def test_nvidia_smi_is_asked_without_a_cuda_context(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = "--id=3" ] && echo "8192, 7900"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(memory.shutil, "which", lambda name: str(tool))
    monkeypatch.setitem(memory.sys.modules, "torch", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert gpu_memory("cuda:1") == GpuMemory(8192, 7900)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    memory._query_nvidia_smi.cache_clear()
    assert gpu_memory("cuda:0") is None  # the tool fails
    assert gpu_memory("cuda:1") is None  # hidden from programs


@pytest.mark.parametrize(("free", "mode"), [(20_000, "fast"), (9_000, "balanced"), (5_500, "low"), (2_000, "low")])
def test_forecast_has_the_memory_mode_of_the_training(monkeypatch, free, mode):
    host_gpu(monkeypatch, free, 24_576, 0)
    forecast = forecast_memory(settings(), "sdxl", 1024, "cuda:0", host_keeps_model=False)
    assert (forecast.mode, forecast.needed_mb) == estimate.pick_memory_mode(
        settings(), "sdxl", "bf16", 1024, free, on_gpu=True
    )
    assert forecast.mode == mode
    (need, *warnings) = forecast.describe()
    assert need.startswith(f"needs about {forecast.needed_mb / 1024:.1f} of 24 GB")
    assert ("memory mode" in need) is (mode != "fast")
    assert bool(warnings) is (free == 2_000)


def test_forecast_uses_the_precision_that_the_training_will_have(monkeypatch):
    """A GPU without bf16 trains in fp16, in which SDXL's VAE overflows and needs fp32."""

    def needed(capability: tuple[int, int]) -> float:
        host_gpu(monkeypatch, 40_000, 40_000, 0, capability)
        return forecast_memory(settings(memory="low"), "sdxl", 1024, "cuda:0", host_keeps_model=False).needed_mb

    work = estimate.Workload.of(settings(), 1024)
    assert needed((8, 6)) == estimate.needed_mb("sdxl", "low", "bf16", work, on_gpu=True)
    assert needed((7, 5)) == estimate.needed_mb("sdxl", "low", "fp16", work, on_gpu=True)


@pytest.mark.parametrize(
    ("flags", "precision"), [("avx2 avx512_bf16", "bf16"), ("avx2 amx_bf16", "bf16"), ("avx2", "fp32")]
)
def test_precision_on_a_cpu_is_assumed_from_its_flags(monkeypatch, flags, precision):
    resolve_auto._cpu_has_bf16.cache_clear()
    monkeypatch.setattr(resolve_auto.Path, "read_text", lambda *_, **__: flags)
    assert resolve_auto.expected_precision(settings(), "cpu", on_gpu=False, parameters=10**9) == precision
    assert resolve_auto.expected_precision(settings(precision="fp16"), "cpu", on_gpu=False, parameters=0) == "fp16"
    resolve_auto._cpu_has_bf16.cache_clear()


def test_bf16_is_assumed_on_a_gpu_without_a_cuda_context(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert resolve_auto.expected_precision(settings(), "cuda:0", on_gpu=True, parameters=10**9) == "bf16"


def test_unusual_network_sizes_have_no_estimate():
    forecast = forecast_memory(settings(), None, 1024, "cpu", host_keeps_model=False)
    assert (forecast.needed_mb, forecast.describe()) == (None, [])


def test_measured_memory_is_not_called_an_estimate():
    gpu = GpuMemory(12_288, 12_000)
    on_gpu, on_cpu = MemoryForecast("fast", 9_000, gpu), MemoryForecast("fast", 9_000, None)
    assert on_gpu.with_measured(5_120 - estimate.CONTEXT_MB).describe() == ["needs 5.0 of 12 GB"]
    assert on_cpu.with_measured(2_048).describe() == ["needs 2.0 GB"]


def measurement(**changes) -> Measurement:
    numbers = {"picture_s": 0.5, "sampling_s": 0.2, "start_s": 10.0, "memory_mb": 4000.0}
    return Measurement(
        **{"family": "sd1", "device": "cuda:0", "precision": "bf16", "resolution": 512, "batch_size": 1, "memory": "fast",
           **numbers, **changes}
    )  # fmt: skip


def test_time_of_previews_scales_with_steps_and_size(tmp_path):
    records = SpeedRecords(tmp_path)
    records._measurements = [measurement()]
    with_previews = settings(steps="500", preview_every="100", preview_steps="10")
    assert preview_count(with_previews) == 6 * 2
    estimated = records.estimate(with_previews, "sd1", 512, "cuda:0", "fast")
    assert estimated.preview_s == pytest.approx((12 + 3) * 10 * 0.2)  # and three test pictures
    assert estimated.seconds == pytest.approx(10 + 500 * 0.5 + estimated.preview_s)
    small = records.estimate(
        settings(steps="500", preview_width="256", preview_height="256"), "sd1", 512, "cuda:0", "fast"
    )
    assert small.preview_s == pytest.approx((12 + 3) * DEFAULTS["preview_steps"] * 0.2 / 4)
    assert preview_count(settings(preview_every="0")) == 0
    negative = settings(steps="150", kind="negative")  # with the word at each of three steps, without it once
    assert preview_count(negative) == 3 * 2 + 2


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_typical_time_orders_devices_and_lengths(family):
    def seconds(gpu_mb=None, device="cpu", checkpoint_bytes=0, **changes):
        options = settings(**{"init_text": "mug", **changes})
        return typical_estimate(options, family, 512, device, gpu_mb, checkpoint_bytes).seconds

    assert seconds() > seconds(8_000, "cuda:0") > seconds(24_000, "cuda:0") > seconds(80_000, "cuda:0") > 10
    assert seconds(device="cuda:0") < seconds()
    assert seconds(steps="1000") > seconds(steps="500") > seconds(steps="500", preview_every="0")
    assert seconds(init_text="auto") > seconds()
    assert seconds(checkpoint_bytes=30_000_000) < seconds() / 5, "the networks of a small file are small"


def test_measured_memory_is_that_of_the_same_mode(tmp_path):
    records = SpeedRecords(tmp_path)
    records._measurements = [measurement(), measurement(memory="low", memory_mb=2000.0)]
    memory_mb = {mode: records.estimate(settings(), "sd1", 512, "cuda:0", mode).memory_mb for mode in MEMORY_MODES}
    assert memory_mb == {"fast": 4000.0, "balanced": None, "low": 2000.0}


def test_records_of_earlier_versions_are_skipped(tmp_path):
    old = {"family": "sd1", "device": "cpu", "checkpointing": False}
    new = measurement(device="cpu").__dict__
    (tmp_path / "speed.json").write_text(json.dumps([old, new, 3][:2]))
    assert SpeedRecords(tmp_path)._load() == [measurement(device="cpu")]
    (tmp_path / "speed.json").write_text("[3]")
    assert SpeedRecords(tmp_path)._load() == []


def test_sampling_time_is_measured_from_previews():
    start = [Event("loading", {}, 0.0)]
    steps = [Event("step", {"step": i, "images_per_s": 4.0, "memory_mb": 900.0}, 10.0 + i) for i in range(1, 41)]
    previews = [Event("preview", {"step": 40}, 50.0 + 3 * i) for i in (1, 2, 3)]
    result = measure_run(
        settings(memory="balanced", resolution="512", preview_steps="15"), [*start, *steps, *previews], "sd1"
    )
    assert result.sampling_s == pytest.approx(3 / 15)
    assert result.memory == "balanced"
    half = settings(resolution="512", preview_steps="15", preview_width="256", preview_height="512")
    assert measure_run(half, [*start, *steps, *previews], "sd1").sampling_s == pytest.approx(2 * 3 / 15)


def test_gradient_checkpointing_is_shown_as_a_memory_mode():
    assert form_to_settings.form_values(settings(gradient_checkpointing=True), False)["memory"] == "balanced"
    assert form_to_settings.form_values(settings(), False)["memory"] == "auto"
    assert "gradient_checkpointing" not in form_to_settings.form_values(settings(), False)


@pytest.mark.parametrize(
    ("mode", "next_mode"), [("auto", "balanced"), ("fast", "balanced"), ("balanced", "low"), ("low", "low")]
)
def test_next_memory_mode_needs_less(mode, next_mode):
    assert next_memory_mode(settings(memory=mode)) == next_mode
