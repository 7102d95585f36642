"""Counts the bytes that a training holds, on a model without weights.

On torch's meta device operations produce shapes and no data, so the real code shows within seconds what it would hold, for
any family and resolution. Memory inside of operations is not seen: workspaces of convolutions, and fragmentation of the
allocator. torch 2.1's meta device lacks some operations; counting needs a later release.
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
TOLERANCE = 500


class LiveTensors(TorchDispatchMode):
    """Tracks which tensors are alive while operations run. `peak`: the most bytes at a time, those of `held` included.

    The peak may be too small by one part in `TOLERANCE`: all tensors are counted again only when it may have grown by more.
    """

    def __init__(self, held: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._sum = 0
        for tensor in held:
            self._add(tensor)
        self.peak = self._sum

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, torch.Tensor):
                self._add(value)
        if self._sum > self.peak + self.peak // TOLERANCE:
            self.peak = max(self.peak, self.live_bytes())
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive or self._alive[key][0].expired():
            self._alive[key] = StorageWeakRef(storage), storage.nbytes()
            self._sum += storage.nbytes()

    def live_bytes(self) -> int:
        """Bytes of the tensors alive now."""
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self._sum = sum(size for _, size in self._alive.values())
        return self._sum


class _FusedAttention(torch.autograd.Function):
    """Fused attention on shapes alone: it saves queries, keys, values, the output and a log-sum-exp for each query."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        output, log_sum_exp = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, output, log_sum_exp)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


@contextmanager
def _fused_attention(device: torch.device) -> Iterator[None]:
    """On the meta device, which would decompose it, attention is fused as on a GPU; on others it is torch's own."""
    if device.type != "meta":
        yield
        return

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        output: torch.Tensor = _FusedAttention.apply(q, k, v)  # type: ignore[no-untyped-call]
        return output

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", attention):
        yield


def empty_model(family: Family, dtype: torch.dtype, mode: str | None) -> StableDiffusion:
    """The networks of a family's usual checkpoint, without weights. `mode`: a memory mode; None: none of its techniques."""
    sizes = yaml_config.default_config(family.name)
    pooled = next((encoder.width for encoder in family.encoders if encoder.name == family.pooled_encoder), 0)
    with META:
        unet = UNet2DConditionModel(**sizes.unet.diffusers_kwargs(pooled))
        vae = AutoencoderKL(**sizes.vae.diffusers_kwargs())
    encoders = {
        encoder.name: _empty_encoder(encoder, encoder.name == family.pooled_encoder) for encoder in family.encoders
    }
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


def _empty_encoder(encoder: EncoderSpec, pooled: bool) -> TextEncoder:
    config = {
        "vocab_size": VOCABULARY_SIZE, "hidden_size": encoder.width, "intermediate_size": 4 * encoder.width,
        "num_hidden_layers": encoder.num_layers, "num_attention_heads": encoder.width // 64,
        "hidden_act": "gelu" if encoder.openclip else "quick_gelu", **({"projection_dim": encoder.width} if pooled else {}),
    }  # fmt: skip
    module = build_text_encoder(config, Path(encoder.name), pooled)
    return TextEncoder(module, encoder.clip_skip, encoder.final_layer_norm, encoder.openclip, pooled)


def weight_bytes(*networks: torch.nn.Module) -> int:
    """Bytes of the networks' parameters and buffers."""
    tensors = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    return sum(int(t.numel() * t.element_size()) for t in tensors)


@dataclass(frozen=True)
class ActivationBytes:
    """Peak bytes beside the weights, by task. `saved_for_backward`: between a step's forward and backward pass."""

    step: int
    saved_for_backward: int
    sampling: int
    decoding: int
    encoding: int


def count_activations(model: StableDiffusion, height: int, width: int, batch_size: int) -> ActivationBytes:
    """What a model on any device holds beside its weights, for images of height × width pixels."""
    step, saved = training_step(model, height, width, batch_size)
    with torch.no_grad():
        peaks = {name: peak_bytes(model, task) for name, task in single_image_tasks(model, height, width).items()}
    return ActivationBytes(step, saved, **peaks)


def single_image_tasks(model: StableDiffusion, height: int, width: int) -> dict[str, Callable[[], object]]:
    """The tasks beside training steps, which handle one image at a time, by name."""
    return {
        "sampling": lambda: _predict(model, height, width, 2, _zero_vectors(model)),  # classifier-free guidance: two
        "decoding": lambda: model.decode_latents(_zero_latents(model, height, width, 1)),
        "encoding": lambda: model.encode_images(torch.zeros(1, 3, height, width, device=model.device)),
    }


def training_step(model: StableDiffusion, height: int, width: int, batch_size: int) -> tuple[int, int]:
    """Do a step; bytes beside the weights at its peak, and between its forward and its backward pass."""
    vectors = {name: value.requires_grad_() for name, value in _zero_vectors(model).items()}
    with _fused_attention(model.device), LiveTensors(_weights(model)) as live:
        weights = live.live_bytes()
        loss = _predict(model, height, width, batch_size, vectors).square().mean()
        saved = live.live_bytes() - weights
        loss.backward()
    return live.peak - weights, saved


def peak_bytes(model: StableDiffusion, task: Callable[[], object]) -> int:
    """Run a task; bytes beside the weights at its peak."""
    with _fused_attention(model.device), LiveTensors(_weights(model)) as live:
        weights = live.live_bytes()
        task()
    return int(live.peak - weights)


def _weights(model: StableDiffusion) -> list[torch.Tensor]:
    return [t for network in model.networks for t in (*network.parameters(), *network.buffers())]


def _zero_vectors(model: StableDiffusion) -> dict[str, torch.Tensor]:
    return {k: torch.zeros(2, v.shape[1], device=model.device) for k, v in model.token_embeddings().items()}


def _zero_latents(model: StableDiffusion, height: int, width: int, batch_size: int) -> torch.Tensor:
    shape = (batch_size, model.latent_channels, height // model.vae_scale_factor, width // model.vae_scale_factor)
    return torch.zeros(shape, device=model.device)


def _predict(
    model: StableDiffusion, height: int, width: int, batch_size: int, vectors: dict[str, torch.Tensor]
) -> torch.Tensor:
    placeholder = Placeholder("my-mug", 0, 2)
    prompts = [model.tokenizer.encode(f"{number} photos of my-mug", [placeholder]) for number in range(batch_size)]
    t = torch.zeros(batch_size, dtype=torch.long, device=model.device)
    latents = _zero_latents(model, height, width, batch_size)
    return model.predict(latents, t, model.encode_prompts(prompts, vectors))
