"""The bytes that a training holds, counted on a model without weights.

On torch's meta device every operation makes its results' shapes and nothing else, so the real code says within seconds what
it would hold, for any size. What an operation takes within itself is not seen: work space of convolutions, and what the
allocator leaves between blocks. torch 2.1's meta device lacks some of the operations; whoever counts needs a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lib_ti.model.checkpoint import yaml_config
from lib_ti.model.checkpoint.checkpoint import VOCABULARY_SIZE, build_text_encoder
from lib_ti.model.checkpoint.families import EncoderSpec, Family
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.model.prompt.text_encoder import PromptEncoder, TextEncoder

META = torch.device("meta")
PRECISELY = 500


class Live(TorchDispatchMode):
    """Follows which tensors are alive while operations run. `peak`: the most bytes at a time, `held` included.

    It may be too small by the share that `PRECISELY` says, so that not all is looked through at each operation.
    """

    def __init__(self, held: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._sum = 0
        for tensor in held:
            self._note(tensor)
        self.peak = self._sum

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_flatten(found)[0]:
            if isinstance(value, torch.Tensor):
                self._note(value)
        if self._sum > self.peak + self.peak // PRECISELY:
            self.peak = max(self.peak, self.now())
        return found

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place not in self._alive or self._alive[place][0].expired():
            self._alive[place] = StorageWeakRef(storage), storage.nbytes()
            self._sum += storage.nbytes()

    def now(self) -> int:
        """Bytes alive at this moment."""
        self._alive = {place: kept for place, kept in self._alive.items() if not kept[0].expired()}
        self._sum = sum(size for _, size in self._alive.values())
        return self._sum


class _Attention(torch.autograd.Function):
    """The shapes of fused attention, which keeps queries, keys, values, the result and a sum for each query."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        found, sums = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, found, sums)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


@contextmanager
def _attention_of(device: torch.device) -> Iterator[None]:
    """Fused attention, which the meta device would take apart; elsewhere torch's own."""
    if device.type != "meta":
        yield
        return

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        found: torch.Tensor = _Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
        return found

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", attention):
        yield


def bare(family: Family, dtype: torch.dtype, mode: str | None) -> StableDiffusion:
    """A real checkpoint of the family without its weights. `mode`: as in `model.memory.modes`; None: as torch does it."""
    sizes = yaml_config.default_config(family.name)
    pooled = next((encoder.width for encoder in family.encoders if encoder.name == family.pooled_encoder), 0)
    with META:
        unet = UNet2DConditionModel(**sizes.unet.diffusers_kwargs(pooled))
        vae = AutoencoderKL(**sizes.vae.diffusers_kwargs())
    encoders = {encoder.name: _encoder(encoder, encoder.name == family.pooled_encoder) for encoder in family.encoders}
    for network in (unet, vae, *(encoder.model for encoder in encoders.values())):
        network.to(dtype).requires_grad_(False).eval()
    model = StableDiffusion(
        unet,
        vae,
        PromptEncoder(encoders),
        PromptTokenizer(),
        sizes.noise_schedule,
        META,
        dtype,
        family.force_zeros_for_empty_prompt,
    )
    if mode:
        memory_modes.apply(model, mode)
    return model


def _encoder(encoder: EncoderSpec, pooled: bool) -> TextEncoder:
    sizes = {
        "vocab_size": VOCABULARY_SIZE, "hidden_size": encoder.width, "intermediate_size": 4 * encoder.width,
        "num_hidden_layers": encoder.num_layers, "num_attention_heads": encoder.width // 64,
        "hidden_act": "gelu" if encoder.openclip else "quick_gelu", **({"projection_dim": encoder.width} if pooled else {}),
    }  # fmt: skip
    module = build_text_encoder(sizes, Path(encoder.name), pooled)
    return TextEncoder(module, encoder.clip_skip, encoder.final_layer_norm, encoder.openclip, pooled)


def size(*networks: torch.nn.Module) -> int:
    """Bytes of networks' weights."""
    tensors = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    return sum(int(t.numel() * t.element_size()) for t in tensors)


@dataclass(frozen=True)
class Counted:
    """Bytes beside the weights, at the peak of each kind of work. `kept`: between a step's forward and backward pass."""

    step: int
    kept: int
    sampling: int
    decoding: int
    encoding: int


def count(model: StableDiffusion, height: int, width: int, batch: int) -> Counted:
    """What `model`, on any device, holds beside its weights while it works on pictures of so many pixels."""
    step, kept = training_step(model, height, width, batch)
    with torch.no_grad():
        peaks = {kind: _peak(model, work) for kind, work in works(model, height, width).items()}
    return Counted(step, kept, **peaks)


def works(model: StableDiffusion, height: int, width: int) -> dict[str, Callable[[], object]]:
    """What is done beside the steps, one picture at a time."""
    return {
        "sampling": lambda: _predict(model, height, width, 2, _vectors(model)),  # with and without the prompt
        "decoding": lambda: model.decode_latents(_latents(model, height, width, 1)),
        "encoding": lambda: model.encode_images(torch.zeros(1, 3, height, width, device=model.device)),
    }


def training_step(model: StableDiffusion, height: int, width: int, batch: int) -> tuple[int, int]:
    """Bytes beside the weights at the peak of a step, and between its forward and its backward pass."""
    vectors = {name: value.requires_grad_() for name, value in _vectors(model).items()}
    with _attention_of(model.device), Live(_weights(model)) as live:
        held = live.now()
        loss = _predict(model, height, width, batch, vectors).square().mean()
        kept = live.now() - held
        loss.backward()
    return live.peak - held, kept


def _peak(model: StableDiffusion, work: Callable[[], object]) -> int:
    with _attention_of(model.device), Live(_weights(model)) as live:
        held = live.now()
        work()
    return int(live.peak - held)


def _weights(model: StableDiffusion) -> list[torch.Tensor]:
    return [t for network in model.networks for t in (*network.parameters(), *network.buffers())]


def _vectors(model: StableDiffusion) -> dict[str, torch.Tensor]:
    return {k: torch.zeros(2, v.shape[1], device=model.device) for k, v in model.token_embeddings().items()}


def _latents(model: StableDiffusion, height: int, width: int, batch: int) -> torch.Tensor:
    shape = (batch, model.latent_channels, height // model.vae_scale_factor, width // model.vae_scale_factor)
    return torch.zeros(shape, device=model.device)


def _predict(
    model: StableDiffusion, height: int, width: int, batch: int, vectors: dict[str, torch.Tensor]
) -> torch.Tensor:
    word = Placeholder("my-mug", 0, 2)
    prompts = [model.tokenizer.encode(f"{number} photos of my-mug", [word]) for number in range(batch)]
    times = torch.zeros(batch, dtype=torch.long, device=model.device)
    return model.predict(_latents(model, height, width, batch), times, model.encode_prompts(prompts, vectors))
