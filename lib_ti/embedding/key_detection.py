"""Which of a file's tensors are an embedding's vectors, by their names (keys), shapes and dtypes alone.

kohya's scripts and invoke-training write `emb_params`; all of them `clip_l` with `clip_g` for SDXL, which diffusers' early
scripts call `text_encoders_0` and `_1`; diffusers uses the token itself. OneTrainer writes `emp_params` (sic), output embeddings
as `clip_l_out` and the like, and embeddings within a LoRA as `bundle_emb.NAME.clip_l`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import TensorInfo
from lib_ti.model.checkpoint.families import SDXL

MAX_VECTORS = 75  # the tokens of a prompt without its start and end
_MAX_WIDTH = 4096
_FLOAT_DTYPES = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")
_SDXL_KEYS = tuple(encoder.name for encoder in SDXL.encoders)
_SINGLE_KEYS = ("emb_params", "emp_params")
_ALIASES = dict(zip(("text_encoders_0", "text_encoders_1"), _SDXL_KEYS, strict=True))
_OTHER_ENCODERS = {"clip_h", "t5", "t5xxl", "llama", "gemma", "qwen"}  # which SD1, SD2 and SDXL do not combine
_OUTPUT_KEYS = {f"{name}_out" for name in (*_SDXL_KEYS, *_OTHER_ENCODERS, "emp_params")}
_BUNDLED_KEY = re.compile(
    r"bundle_emb\.(.+?)\."
    rf"(string_to_param\..+|{'|'.join((*_SDXL_KEYS, *_OTHER_ENCODERS, *_OUTPUT_KEYS, *_SINGLE_KEYS))})",
    re.DOTALL,
)
_LORA_KEY = re.compile(r"lora_(up|down|unet|te)|lora_[AB]\.|hada_w1|lokr_w1")
_IS_LORA = "this is a LoRA, and no embedding comes with it"


class DetectedKeys(NamedTuple):
    """`keys`: by text encoder, the tensor with its vectors. `name`: the embedding's, if the file states one.

    `in_lora`: the embedding is bundled with a LoRA. `ignored`: keys of output embeddings, and of whatever else lies beside.
    """

    keys: Mapping[str, str]
    name: str = ""
    in_lora: bool = False
    ignored: tuple[str, ...] = ()


def detect_keys(path: Path, tensors: Mapping[str, TensorInfo], name: str | None = None) -> DetectedKeys:
    """The embedding among a file's tensors; `name` selects one of several. Raises UnusableFile, which says what is wrong."""
    bundles: dict[str, dict[str, str]] = {}
    for key in tensors:
        if match := _BUNDLED_KEY.fullmatch(key):
            bundles.setdefault(match[1], {})[match[2]] = key
    if bundles:
        selected = _select(path, bundles, name)
        detected = _detect_one(path, bundles[selected], tensors)._replace(name=selected, in_lora=True)
    elif len(tensors) > 1 and not _has_known_key(tensors):
        _check_all_are_vectors(path, tensors)
        selected = _select(path, tensors, name)
        detected = DetectedKeys({_encoder_of(selected, tensors[selected]): selected}, selected)
    else:
        detected = _detect_one(path, {key: key for key in tensors}, tensors)
        if name is not None and name not in (detected.name, path.stem):
            raise UnusableFile(path, f"it holds no embedding called {name!r}, only {detected.name or path.stem!r}")
    counts = {check_vectors(path, tensors[key])[0] for key in detected.keys.values()}
    if len(counts) > 1:
        raise UnusableFile(path, "it should hold as many vectors for one text encoder as for the other")
    if tuple(tensors[key].shape[-1] for key in detected.keys.values()) == SDXL.widths[::-1]:
        raise UnusableFile(path, "clip_l and clip_g are exchanged: clip_l's vectors are 768 wide, clip_g's 1280")
    return detected


def check_vectors(path: Path, tensor: TensorInfo) -> tuple[int, int]:
    """The number and the width of the vectors in a tensor. Raises UnusableFile for a tensor that is no set of vectors."""
    shape, dtype = tensor
    num_vectors, width = (1, *shape) if len(shape) == 1 else shape if len(shape) == 2 else (0, 0)
    if not (num_vectors >= 1 and 1 <= width <= _MAX_WIDTH):
        sides = "×".join(map(str, shape)) or "a single number"
        raise UnusableFile(path, f"it holds {sides}, which is no set of vectors; not an embedding")
    if dtype not in _FLOAT_DTYPES:
        raise UnusableFile(path, f"its numbers are {dtype}, and not {', '.join(_FLOAT_DTYPES)}; not an embedding")
    if num_vectors > MAX_VECTORS:
        raise UnusableFile(
            path, f"it holds {num_vectors} vectors, but a prompt has room for {MAX_VECTORS}; not an embedding"
        )
    return num_vectors, width


def _detect_one(path: Path, keys: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> DetectedKeys:
    """The single embedding among tensors. `keys`: their full names, by the names without a bundle's prefix."""
    outputs = tuple(sorted(_OUTPUT_KEYS.intersection(keys)))
    inputs = {_ALIASES.get(part, part): key for part, key in keys.items() if part not in outputs}
    if not inputs and outputs:
        raise UnusableFile(
            path, f"it holds output embeddings ({', '.join(outputs)}), which no program but OneTrainer can use"
        )
    if inputs.keys() == set(_SDXL_KEYS):
        return DetectedKeys({encoder: inputs[encoder] for encoder in _SDXL_KEYS}, ignored=outputs)
    if len(inputs) == 1:
        ((part, key),) = inputs.items()
        if _LORA_KEY.search(part):
            raise UnusableFile(path, _IS_LORA)
        generic = _has_known_key([part]) or part.startswith("string_to_param.") or part in ("*", *_OTHER_ENCODERS)
        return DetectedKeys({_encoder_of(part, tensors[key]): key}, "" if generic else part, ignored=outputs)
    if clear := _clear_embedding(inputs):
        ignored = sorted({*inputs} - {*clear.values()})
        return DetectedKeys({encoder: inputs[part] for encoder, part in clear.items()}, ignored=(*outputs, *ignored))
    if others := sorted(_OTHER_ENCODERS.intersection(inputs)):
        raise UnusableFile(
            path, f"it is made for models with other text encoders ({', '.join(others)}), such as SD3 or Flux"
        )
    if not inputs:
        raise UnusableFile(path, "an embedding holds one set of vectors, but this file holds none")
    raise UnusableFile(
        path, f"it holds {_enumerate(sorted(inputs))}; an embedding holds one set of vectors, or clip_l and clip_g"
    )


def _clear_embedding(parts: Collection[str]) -> dict[str, str]:
    """By text encoder the name under which its vectors are, if one embedding can be told from other tensors beside it."""
    if _OTHER_ENCODERS.intersection(parts):
        return {}
    found = [
        *([{encoder: encoder for encoder in _SDXL_KEYS}] if {*_SDXL_KEYS} <= {*parts} else []),
        *({_SDXL_KEYS[0]: part} for part in (*_SINGLE_KEYS, "string_to_param.*") if part in parts),
        *({part: part} for part in _SDXL_KEYS if part in parts and not {*_SDXL_KEYS} <= {*parts}),
    ]
    return found[0] if len(found) == 1 else {}


def _has_known_key(keys: Iterable[str]) -> bool:
    return bool({*_SINGLE_KEYS, *_SDXL_KEYS, *_ALIASES, *_OUTPUT_KEYS}.intersection(keys))


def _check_all_are_vectors(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises UnusableFile for a file that cannot be several embeddings, each under its token."""
    try:
        for tensor in tensors.values():
            check_vectors(path, tensor)
    except UnusableFile:
        if any(_LORA_KEY.search(key) for key in tensors):
            raise UnusableFile(path, _IS_LORA) from None
        raise UnusableFile(
            path, f"an embedding holds one set of vectors, but this file holds {len(tensors)} tensors; not an embedding"
        ) from None


def _select(path: Path, embeddings: Mapping[str, object], name: str | None) -> str:
    """The name of one of a file's embeddings. Raises UnusableFile if `name` is not there, or missing where it is needed."""
    if name is not None and name not in embeddings:
        raise UnusableFile(path, f"it holds no embedding called {name!r}, but {_enumerate(sorted(embeddings))}")
    if name is None and len(embeddings) > 1:
        listed = _enumerate(sorted(embeddings))
        raise UnusableFile(
            path, f"it holds {len(embeddings)} embeddings: {listed}; inspect and convert take one of them, by --name"
        )
    return name if name is not None else next(iter(embeddings))


def _encoder_of(part: str, tensor: TensorInfo) -> str:
    """The text encoder that a single tensor is for: SDXL's second, else the first or only one."""
    first, second = _SDXL_KEYS
    return second if part == second or tensor.shape[-1:] == SDXL.widths[1:] else first


def _enumerate(names: list[str], limit: int = 8) -> str:
    listed = ", ".join(name if len(name) < 60 else f"{name[:57]}..." for name in names[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"
