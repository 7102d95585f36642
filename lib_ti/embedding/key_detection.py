"""Which of a file's tensors are an embedding's vectors, told by their names, shapes and number formats alone.

The names, by who writes them: `emb_params` kohya and invoke-training; `emp_params` (sic), `clip_l_out` and its like, and
`bundle_emb.NAME.clip_l` in a LoRA OneTrainer; `clip_l` with `clip_g` all of them for SDXL; `text_encoders_0` with `_1` the
same in diffusers' earlier scripts; the word itself diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib_ti.errors import UnusableFile

MOST = 75  # vectors: the places of a prompt, its start and end not counted
_WIDEST = 4096
_FLOATS = ("F32", "F16", "BF16", "F64")
_ENCODERS = ("clip_l", "clip_g")
_ALONE = ("emb_params", "emp_params")
_ALIASES = {"text_encoders_0": "clip_l", "text_encoders_1": "clip_g"}
_OTHER_MODELS = {"clip_h", "t5", "t5xxl", "llama", "gemma", "qwen"}  # text encoders that SD1, SD2 and SDXL do not pair
_OUTPUTS = {f"{name}_out" for name in (*_ENCODERS, *_OTHER_MODELS, "emp_params")}
_BUNDLED = re.compile(
    rf"bundle_emb\.(.+?)\.(string_to_param\..+|{'|'.join((*_ENCODERS, *_OTHER_MODELS, *_OUTPUTS, *_ALONE))})",
    re.DOTALL,
)
_A_LORA = "this is a LoRA, and no embedding comes with it"
_OF_A_LORA = re.compile(r"lora_(up|down|unet|te)|lora_[AB]\.|hada_w1|lokr_w1")


class Kind(NamedTuple):
    """A tensor's shape, and its numbers' format as safetensors calls it: "F32"."""

    shape: tuple[int, ...]
    dtype: str


class Choice(NamedTuple):
    """`tensors`: for each text encoder the tensor that holds its vectors; `name`: the embedding's, where the file has one."""

    tensors: Mapping[str, str]
    name: str = ""
    bundled: bool = False  # in a LoRA
    left_out: tuple[str, ...] = ()


def choose(path: Path, kinds: Mapping[str, Kind], wanted: str | None = None) -> Choice:
    """The embedding in a file of these tensors; of several, the one called `wanted`. Raises UnusableFile, saying why not."""
    bundles: dict[str, dict[str, str]] = {}
    for key in kinds:
        if found := _BUNDLED.fullmatch(key):
            bundles.setdefault(found[1], {})[found[2]] = key
    if bundles:
        name = _pick(path, bundles, wanted)
        choice = _of(path, bundles[name], kinds)._replace(name=name, bundled=True)
    elif len(kinds) > 1 and not _known(kinds):
        name = _pick(path, _alike(path, kinds), wanted)
        choice = Choice({_encoder_of(name, kinds[name]): name}, name)
    else:
        choice = _of(path, {key: key for key in kinds}, kinds)
        if wanted is not None and wanted not in (choice.name, path.stem):
            raise UnusableFile(path, f"it holds no embedding called {wanted!r}, only {choice.name or path.stem!r}")
    counts = {checked(path, kinds[key])[0] for key in choice.tensors.values()}
    if len(counts) > 1:
        raise UnusableFile(path, "it should hold as many vectors for one text encoder as for the other")
    if [kinds[key].shape[-1] for key in choice.tensors.values()] == [1280, 768]:
        raise UnusableFile(path, "clip_l and clip_g are exchanged: clip_l's vectors are 768 wide, clip_g's 1280")
    return choice


def checked(path: Path, kind: Kind) -> tuple[int, int]:
    """How many vectors a tensor holds, and how long they are. Raises UnusableFile if it holds none or too many."""
    shape, dtype = kind
    count, width = (1, *shape) if len(shape) == 1 else shape if len(shape) == 2 else (0, 0)
    if not (count >= 1 and 1 <= width <= _WIDEST):
        sides = "×".join(map(str, shape)) or "a single number"
        raise UnusableFile(path, f"it holds {sides}, which is no set of vectors; not an embedding")
    if dtype not in _FLOATS:
        raise UnusableFile(path, f"its numbers are {dtype}, and not {', '.join(_FLOATS)}; not an embedding")
    if count > MOST:
        raise UnusableFile(path, f"it holds {count} vectors, but a prompt has room for {MOST}; not an embedding")
    return count, width


def _known(keys: Iterable[str]) -> bool:
    return bool({*_ALONE, *_ENCODERS, *_ALIASES, *_OUTPUTS}.intersection(keys))


def _of(path: Path, keys: Mapping[str, str], kinds: Mapping[str, Kind]) -> Choice:
    """The one embedding in tensors that go by the names of `keys`."""
    outputs = sorted(_OUTPUTS.intersection(keys))
    inputs = {_ALIASES.get(part, part): key for part, key in keys.items() if part not in outputs}
    if not inputs and outputs:
        raise UnusableFile(
            path, f"it holds output embeddings ({', '.join(outputs)}), which no program but OneTrainer can use"
        )
    left_out = tuple(outputs)
    if inputs.keys() == set(_ENCODERS):
        return Choice({encoder: inputs[encoder] for encoder in _ENCODERS}, left_out=left_out)
    if len(inputs) == 1:
        ((part, key),) = inputs.items()
        if _OF_A_LORA.search(part):
            raise UnusableFile(path, _A_LORA)
        own_name = (
            "" if _known([part]) or part.startswith("string_to_param.") or part in ("*", *_OTHER_MODELS) else part
        )
        return Choice({_encoder_of(part, kinds[key]): key}, own_name, left_out=left_out)
    if others := sorted(_OTHER_MODELS.intersection(inputs)):
        raise UnusableFile(
            path, f"it is made for models with other text encoders ({', '.join(others)}), such as SD3 or Flux"
        )
    if not inputs:
        raise UnusableFile(path, "an embedding holds one set of vectors, but this file holds none")
    raise UnusableFile(
        path, f"it holds {_some(sorted(inputs))}; an embedding holds one set of vectors, or clip_l and clip_g"
    )


def _alike(path: Path, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """The tensors by words of their own, where all of a file's are vectors. Raises UnusableFile for any other file."""
    try:
        for kind in kinds.values():
            checked(path, kind)
    except UnusableFile:
        if any(_OF_A_LORA.search(key) for key in kinds):
            raise UnusableFile(path, _A_LORA) from None
        raise UnusableFile(
            path, f"an embedding holds one set of vectors, but this file holds {len(kinds)} tensors; not an embedding"
        ) from None
    return dict(kinds)


def _pick(path: Path, found: Mapping[str, object], wanted: str | None) -> str:
    if wanted is not None and wanted not in found:
        raise UnusableFile(path, f"it holds no embedding called {wanted!r}, but {_some(sorted(found))}")
    if wanted is None and len(found) > 1:
        listed = _some(sorted(found))
        raise UnusableFile(
            path, f"it holds {len(found)} embeddings: {listed}; inspect and convert take one of them, by --name"
        )
    return wanted if wanted is not None else next(iter(found))


def _encoder_of(part: str, kind: Kind) -> str:
    """Which text encoder a lone tensor is for: SDXL's second, or the first and only one."""
    return "clip_g" if part == "clip_g" or kind.shape[-1:] == (1280,) else "clip_l"


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(name if len(name) < 60 else f"{name[:57]}..." for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
