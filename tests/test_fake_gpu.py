"""A whole training on a card that is not there: what meets in an operation must lie in the same memory.

torch's meta device stands in for the card. It has shapes and no numbers, so whoever asks for a number is told 1, and what comes
back to the processor is zeros.
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

CARD = torch.device("meta")
ATEN = torch.ops.aten
BETWEEN = {ATEN._to_copy.default, ATEN.copy_.default}  # what may move numbers from one memory to another
BY_INDEX = {ATEN.index.Tensor, ATEN.index_put_.default}  # a card takes indices from either


class Card(TorchDispatchMode):
    """Computes nothing on the card, and refuses there what a card refuses."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is ATEN._local_scalar_dense.default and args[0].device == CARD:
            return torch.ones((), dtype=args[0].dtype).item()
        if func in BETWEEN:
            return self._move(func, *args, **kwargs)
        met, _ = tree_flatten((args[:1] if func in BY_INDEX else args, kwargs))
        tensors = [leaf for leaf in met if isinstance(leaf, torch.Tensor)]
        # a single number of the processor's may go along with what lies on the card, but not the other way round
        memories = {tensor.device for tensor in tensors if tensor.ndim or tensor.device == CARD}
        assert len(memories) < 2, f"{func} of {[(tensor.device.type, tuple(tensor.shape)) for tensor in tensors]}"
        return func(*args, **kwargs)

    def _move(self, func: Any, first: torch.Tensor, *others: Any, **kwargs: Any) -> Any:
        if func is ATEN._to_copy.default and first.device == CARD and (kwargs.get("device") or CARD) != CARD:
            return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if func is ATEN.copy_.default and first.device != CARD and others[0].device == CARD:
            return first.zero_()
        return func(first, *others, **kwargs)


def test_what_a_card_refuses_is_refused():
    with Card():
        there, here = torch.ones(2, device=CARD), torch.ones(2)
        assert (there * torch.tensor(2.0) + here.to(CARD)).device == CARD
        assert there.cpu().device == here.device
        assert float(there.sum()) == 1
        with pytest.raises(AssertionError, match=r"aten\.add\.Tensor"):
            there + here
        with pytest.raises(AssertionError, match=r"aten\.embedding"):
            torch.nn.functional.embedding(torch.tensor([0, 1]), torch.ones(3, 2, device=CARD))


@pytest.mark.parametrize(("sizes", "mode"), [("small", "fast"), ("sd2", "balanced"), ("sdxl", "low")])
def test_a_training_keeps_together_what_meets(sizes, mode, pictures, tmp_path, monkeypatch):
    loaded = StableDiffusion.load.__func__

    def load(cls, *args, **kwargs):
        model = loaded(cls, *args, **kwargs)
        for encoder in model.prompt_encoder.encoders.values():
            encoder.keep_token_table_on_cpu()  # as `memory_modes.apply` does on a GPU
        return model

    monkeypatch.setattr(StableDiffusion, "load", classmethod(load))
    monkeypatch.setattr("lib_ti.training.trainer.choose_device", lambda asked: CARD)
    settings = settings_for(
        write_checkpoint(tmp_path / "model.safetensors", SIZES[sizes]), pictures, tmp_path,
        steps="3", preview_every="2", preview_steps="2", memory=mode, batch_size="2", flip="true",
        preview_negative_prompt="a (blurry:1.2) picture", preview_sampler="euler a",
    )  # fmt: skip
    asked = count()
    with Card():
        folder = run(settings, should_stop=lambda: next(asked) > 12)
        between = folder.saved_step
        assert execute_run(folder)
    assert 0 < between < 3, "what was saved has been read again"
    assert (folder.settings.out / "my-mug.safetensors").is_file()
    assert folder.preview(3, 0, 0).is_file()
