"""A whole training on a simulated GPU: all tensors of an operation must be on the same device.

torch's meta device stands in for the GPU. It has shapes and no data: reading a number gives 1, and copies to the CPU are zeros.
"""

from itertools import count
from typing import Any

import pytest
import torch
from reference.checkpoints import SIZES, write_checkpoint
from reference.trainings import run, settings_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lib_ti.model.diffusion import StableDiffusion
from lib_ti.runs.execute import execute_run

GPU = torch.device("meta")
ATEN = torch.ops.aten
COPIES = {ATEN._to_copy.default, ATEN.copy_.default}  # may take tensors from one device to another
INDEXING = {ATEN.index.Tensor, ATEN.index_put_.default}  # indices may be on the CPU


class FakeGpu(TorchDispatchMode):
    """Computes nothing on the GPU, and fails where CUDA would: for operations on tensors of both devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is ATEN._local_scalar_dense.default and args[0].device == GPU:
            return torch.ones((), dtype=args[0].dtype).item()
        if func in COPIES:
            return self._copy(func, *args, **kwargs)
        leaves, _ = tree_flatten((args[:1] if func in INDEXING else args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        # a zero-dimensional CPU tensor may be combined with GPU tensors, but not the reverse
        devices = {tensor.device for tensor in tensors if tensor.ndim or tensor.device == GPU}
        assert len(devices) < 2, f"{func} of {[(tensor.device.type, tuple(tensor.shape)) for tensor in tensors]}"
        return func(*args, **kwargs)

    def _copy(self, func: Any, first: torch.Tensor, *others: Any, **kwargs: Any) -> Any:
        if func is ATEN._to_copy.default and first.device == GPU and (kwargs.get("device") or GPU) != GPU:
            return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if func is ATEN.copy_.default and first.device != GPU and others[0].device == GPU:
            return first.zero_()
        return func(first, *others, **kwargs)


def test_fake_gpu_refuses_mixed_devices():
    with FakeGpu():
        on_gpu, on_cpu = torch.ones(2, device=GPU), torch.ones(2)
        assert (on_gpu * torch.tensor(2.0) + on_cpu.to(GPU)).device == GPU
        assert on_gpu.cpu().device == on_cpu.device
        assert float(on_gpu.sum()) == 1
        with pytest.raises(AssertionError, match=r"aten\.add\.Tensor"):
            on_gpu + on_cpu
        with pytest.raises(AssertionError, match=r"aten\.embedding"):
            torch.nn.functional.embedding(torch.tensor([0, 1]), torch.ones(3, 2, device=GPU))


@pytest.mark.parametrize(("sizes", "mode"), [("small", "fast"), ("sd2", "balanced"), ("sdxl", "low")])
def test_training_keeps_tensors_on_one_device(sizes, mode, pictures, tmp_path, monkeypatch):
    original_load = StableDiffusion.load.__func__

    def load(cls, *args, **kwargs):
        model = original_load(cls, *args, **kwargs)
        for encoder in model.prompt_encoder.encoders.values():
            encoder.keep_token_table_on_cpu()  # as memory modes do on a GPU
        return model

    monkeypatch.setattr(StableDiffusion, "load", classmethod(load))
    monkeypatch.setattr("lib_ti.training.trainer.choose_device", lambda requested: GPU)
    settings = settings_for(
        write_checkpoint(tmp_path / "model.safetensors", SIZES[sizes]), pictures, tmp_path,
        steps="3", validate_every="2", preview_every="2", preview_steps="2", memory=mode, batch_size="2", flip="true",
        preview_negative_prompt="a (blurry:1.2) picture", preview_sampler="euler a",
    )  # fmt: skip
    calls = count()
    with FakeGpu():
        folder = run(settings, should_stop=lambda: next(calls) > 12)
        stopped_at = folder.saved_step
        assert execute_run(folder)
    assert 0 < stopped_at < 3, "the saved state is loaded on the resume"
    assert (folder.settings.out / "my-mug.safetensors").is_file()
    assert folder.preview(3, 0, 0).is_file()
    assert set(folder.history().validations) == {0, 2, 3}
