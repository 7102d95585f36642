"""Small checkpoints of each family that AUTOMATIC1111's WebUI loads: their .yaml files name all that its code has to build."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

import lib_ti
from reference.checkpoints import SIZES, Sizes, config, write_checkpoint

OPENCLIP = {"arch": "ViT-S-32-alt", "width": 256, "layers": 10, "projection": 256}
"""The smallest of open_clip's architectures whose heads are 64 wide, as those of the real ones are."""

FAMILIES = {
    "tiny-sd1": SIZES["small"],
    "tiny-sd2": replace(
        SIZES["sd2"], unet={**SIZES["sd2"].unet, "context_dim": OPENCLIP["width"]}, text_layers=OPENCLIP["layers"]
    ),
    "tiny-sdxl": replace(
        SIZES["sdxl"],
        unet={**SIZES["sdxl"].unet, "context_dim": 64 + OPENCLIP["width"], "adm_in_channels": OPENCLIP["projection"] + 192},
        second=(OPENCLIP["width"], OPENCLIP["layers"], OPENCLIP["projection"]),
    ),
}  # fmt: skip


def write_families(folder: Path) -> dict[str, Path]:
    """Write a checkpoint of each family into a WebUI's folder of checkpoints; gives them by their names."""
    paths = {}
    for name, sizes in FAMILIES.items():
        paths[name] = write_checkpoint(folder / f"{name}.safetensors", sizes)
        document = config(sizes)
        _name_text_encoders(document["model"]["params"], sizes, folder)
        paths[name].with_suffix(".yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return paths


def _name_text_encoders(params: dict[str, Any], sizes: Sizes, folder: Path) -> None:
    modules = "{}.modules.encoders.modules."
    openclip = {"arch": OPENCLIP["arch"], "freeze": True, "layer": "penultimate"}
    if sizes.family == "sd2":
        params["cond_stage_config"] = {"target": modules.format("ldm") + "FrozenOpenCLIPEmbedder", "params": openclip}
        return
    clip = _clip_folder(folder / f"clip-{sizes.width}-{sizes.text_layers}", sizes)
    if sizes.family == "sd1":
        params["cond_stage_config"]["params"] = {"version": str(clip)}
        return

    def part(key: str, name: str, more: dict[str, Any]) -> dict[str, Any]:
        return {"is_trainable": False, "input_key": key, "target": modules.format("sgm") + name, "params": more}

    del params["image_size"]  # of our own, so that tests are quick; that code takes it for a mistake
    side = sizes.unet["model_channels"]
    params["conditioner_config"]["params"] = {"emb_models": [
        part("txt", "FrozenCLIPEmbedder", {"version": str(clip), "layer": "hidden", "layer_idx": sizes.text_layers - 1}),
        part("txt", "FrozenOpenCLIPEmbedder2", {**openclip, "always_return_pooled": True, "legacy": False}),
        *(
            part(key, "ConcatTimestepEmbedderND", {"outdim": side})
            for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
        ),
    ]}  # fmt: skip


def _clip_folder(folder: Path, sizes: Sizes) -> Path:
    """CLIP's tokenizer and the sizes of a small text encoder, for transformers."""
    folder.mkdir(exist_ok=True)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(Path(lib_ti.__file__).parent / "model" / "prompt" / "clip_vocab" / file, folder)
    text = {
        "model_type": "clip_text_model", "hidden_act": "quick_gelu", "hidden_size": sizes.width,
        "num_hidden_layers": sizes.text_layers, "intermediate_size": 4 * sizes.width,
        "num_attention_heads": max(1, sizes.width // 64), "projection_dim": sizes.width,
        "max_position_embeddings": 77, "vocab_size": sizes.vocabulary, "layer_norm_eps": 1e-5,
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "attention_dropout": 0.0,
    }  # fmt: skip
    document = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": sizes.width, "text_config": text,
            "text_config_dict": text}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
        })
    )  # fmt: skip
    return folder
