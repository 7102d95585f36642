"""The text encoders of checkpoints in the original layout, whose sizes are told by their weights."""

from __future__ import annotations

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import Shape
from lib_ti.formats.weights import TensorSource, Weights
from lib_ti.model.checkpoint import ldm_keys
from lib_ti.model.checkpoint.checkpoint import POSITIONS, TOKEN_TABLE, Part, named_part, text_encoder
from lib_ti.model.checkpoint.families import Encoder

HEAD = 64  # width of an attention head in every CLIP text encoder


def text_part(weights: Weights, encoder: Encoder, projecting: bool) -> Part:
    """One text encoder; `projecting`: with the projection of what it pools. Raises UnusableFile."""

    def place(name: str) -> TensorSource:
        if not encoder.openclip:
            found = ldm_keys.clip_source(name)
            early = not weights.has_prefix(f"{encoder.prefix}text_model.")
            return TensorSource(encoder.prefix + (found.name.removeprefix("text_model.") if early else found.name))
        found = ldm_keys.openclip_source(name)
        if found.transposed and f"{encoder.prefix}{name}" in weights.shapes:  # kept as a layer's weight, then
            return TensorSource(f"{encoder.prefix}{name}")
        return TensorSource(encoder.prefix + found.name, found.chunk, found.num_chunks, found.transposed)

    def shape(name: str) -> Shape:
        """Of a matrix."""
        there = place(name)
        found = weights.shapes.get(there.name)
        if found is None or len(found) != 2:
            raise UnusableFile(weights.path, f"its text encoder lacks {there.name}")
        return there.shape_of(found)

    words, width = shape(TOKEN_TABLE)
    before, behind = place(f"{ldm_keys.LAYERS}#.layer_norm1.weight").name.split("#")
    sizes = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": shape(f"{ldm_keys.LAYERS}0.mlp.fc1.weight")[0],
        "max_position_embeddings": shape(POSITIONS)[0],
        "num_hidden_layers": sum(name.startswith(before) and name.endswith(behind) for name in weights.shapes),
        "num_attention_heads": max(1, width // HEAD),
        "hidden_act": "gelu" if encoder.openclip else "quick_gelu",
        **({"projection_dim": shape("text_projection.weight")[0]} if projecting else {}),
    }
    module = text_encoder(sizes, weights.path, projecting)
    counted = "text_model.embeddings.position_ids"  # in early transformers releases; `Part.load` counts them itself
    return named_part(
        module, weights, {name: place(name) for name in module.state_dict() if name != counted}, "text encoder"
    )
