"""What the form says of memory and time: measured, estimated, or nothing."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

from lib_ti.data.captions import preview_count
from lib_ti.model.memory import estimate
from lib_ti.runs.events import Event
from lib_ti.settings.train_settings import DEFAULTS, MEMORY_MODES, parse
from lib_ti.webui.forms import form_to_settings, memory
from lib_ti.webui.forms.launch import _leaner
from lib_ti.webui.forms.memory import Card, Room
from lib_ti.webui.forms.speed import Measurement, Speed, measure

SDXL = {"family": "sdxl", "usual": True}


def settings(**asked):
    return parse({"model": "m", "images": "i", "name": "n", "out": "o", **asked})[0]


@pytest.fixture(autouse=True)
def _no_real_card(monkeypatch):
    memory._by_nvidia_smi.cache_clear()
    monkeypatch.setattr(memory.shutil, "which", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def host_torch(monkeypatch, free: int, total: int, own: int):
    """The host has its card in use, and says so to whoever asks."""
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        mem_get_info=lambda device: (free << 20, total << 20),
        memory_reserved=lambda device: own << 20,
    )
    monkeypatch.setitem(memory.sys.modules, "torch", SimpleNamespace(cuda=cuda))


@pytest.mark.parametrize(("sharing", "free"), [(False, 11_000), (True, 4_000)])
def test_what_the_host_will_give_back_counts_as_free(monkeypatch, sharing, free):
    host_torch(monkeypatch, 4_000, 12_288, 7_000)
    assert memory.card_of("cuda:0", sharing) == Card(12_288, free)
    assert memory.card_of("cpu") is None


def test_without_a_card_in_use_nvidias_tool_is_asked(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = "--id=3" ] && echo "8192, 7900"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(memory.shutil, "which", lambda name: str(tool))
    monkeypatch.setitem(memory.sys.modules, "torch", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert memory.card_of("cuda:1") == Card(8192, 7900)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    memory._by_nvidia_smi.cache_clear()
    assert memory.card_of("cuda:0") is None  # the tool fails
    assert memory.card_of("cuda:1") is None  # hidden from programs


@pytest.mark.parametrize(("free", "mode"), [(20_000, "fast"), (9_000, "balanced"), (5_500, "low"), (2_000, "low")])
def test_the_mode_is_the_one_that_the_training_will_take(monkeypatch, free, mode):
    host_torch(monkeypatch, free, 24_576, 0)
    room = memory.needed(settings(), SDXL, 1024, "cuda:0", sharing=False)
    work = estimate.Work(1, 1024**2, 1024**2)
    assert (room.mode, room.mb) == estimate.fitting(MEMORY_MODES, "sdxl", "bf16", work, free)
    assert room.mode == mode
    (said, *more) = room.words()
    assert said.startswith(f"needs about {room.mb / 1024:.1f} of 24 GB")
    assert ("memory mode" in said) is (mode != "fast")
    assert bool(more) is (free == 2_000)


def test_sizes_that_nobody_knows_are_not_guessed(monkeypatch):
    room = memory.needed(settings(), SDXL | {"usual": False}, 1024, "cpu", sharing=False)
    assert (room.mb, room.words()) == (None, [])


def test_what_was_measured_is_not_called_an_estimate():
    card = Card(12_288, 12_000)
    assert Room("fast", 9_000, card).measured(5_120 - estimate.CONTEXT_MB).words() == ["needs 5.0 of 12 GB"]
    assert Room("fast", 9_000, None).measured(2_048).words() == ["needs 2.0 GB"]


def measured(**more) -> Measurement:
    numbers = {"picture_s": 0.5, "sampling_s": 0.2, "start_s": 10.0, "memory_mb": 4000.0}
    return Measurement(
        **{"family": "sd1", "device": "cuda:0", "precision": "bf16", "resolution": 512, "batch_size": 1, "memory": "fast",
           **numbers, **more}
    )  # fmt: skip


def test_previews_are_part_of_the_time_by_their_steps_and_size(tmp_path):
    speed = Speed(tmp_path)
    speed._known = [measured()]
    asked = settings(steps="500", preview_every="100", preview_steps="10")
    assert preview_count(asked) == 6 * 2
    found = speed.estimate(asked, "sd1", 512, "cuda:0", "fast")
    assert found.preview_s == pytest.approx(12 * 10 * 0.2)
    assert found.seconds == pytest.approx(10 + 500 * 0.5 + found.preview_s)
    small = speed.estimate(
        settings(steps="500", preview_width="256", preview_height="256"), "sd1", 512, "cuda:0", "fast"
    )
    assert small.preview_s == pytest.approx(12 * DEFAULTS["preview_steps"] * 0.2 / 4)
    assert preview_count(settings(preview_every="0")) == 0
    assert preview_count(settings(steps="150", kind="negative")) == 3


def test_memory_was_measured_in_that_mode_alone(tmp_path):
    speed = Speed(tmp_path)
    speed._known = [measured(), measured(memory="low", memory_mb=2000.0)]
    asked = {mode: speed.estimate(settings(), "sd1", 512, "cuda:0", mode).memory_mb for mode in MEMORY_MODES}
    assert asked == {"fast": 4000.0, "balanced": None, "low": 2000.0}


def test_records_of_before_are_passed_over(tmp_path):
    old = {"family": "sd1", "device": "cpu", "checkpointing": False}
    new = measured(device="cpu").__dict__
    (tmp_path / "speed.json").write_text(json.dumps([old, new, 3][:2]))
    assert Speed(tmp_path)._read() == [measured(device="cpu")]
    (tmp_path / "speed.json").write_text("[3]")
    assert Speed(tmp_path)._read() == []


def test_a_preview_is_measured_by_its_sampling_steps():
    begun = [Event("loading", {}, 0.0)]
    steps = [Event("step", {"step": i, "images_per_s": 4.0, "memory_mb": 900.0}, 10.0 + i) for i in range(1, 41)]
    shown = [Event("preview", {"step": 40}, 50.0 + 3 * i) for i in (1, 2, 3)]
    found = measure(settings(memory="balanced", resolution="512", preview_steps="15"), [*begun, *steps, *shown], "sd1")
    assert found.sampling_s == pytest.approx(3 / 15)
    assert found.memory == "balanced"
    half = settings(resolution="512", preview_steps="15", preview_width="256", preview_height="512")
    assert measure(half, [*begun, *steps, *shown], "sd1").sampling_s == pytest.approx(2 * 3 / 15)


def test_the_old_switch_shows_as_a_mode():
    assert form_to_settings.form_of(settings(gradient_checkpointing=True), False)["memory"] == "balanced"
    assert form_to_settings.form_of(settings(), False)["memory"] == "auto"
    assert "gradient_checkpointing" not in form_to_settings.form_of(settings(), False)


@pytest.mark.parametrize(
    ("ran_in", "then"), [("auto", "balanced"), ("fast", "balanced"), ("balanced", "low"), ("low", "low")]
)
def test_less_memory_is_the_next_mode(ran_in, then):
    assert _leaner(settings(memory=ran_in)) == then
