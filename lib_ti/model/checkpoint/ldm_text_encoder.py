"""The text encoders of LDM checkpoints. Their sizes are taken from the shapes of their weights."""

from __future__ import annotations

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import Shape
from lib_ti.formats.weights import TensorSource, Weights
from lib_ti.model.checkpoint import ldm_keys
from lib_ti.model.checkpoint.checkpoint import (
    POSITION_EMBEDDING,
    TOKEN_EMBEDDING,
    Component,
    build_text_encoder,
    component_from_keys,
)
from lib_ti.model.checkpoint.families import EncoderSpec

MAX_LAYERS = 200
HEAD_WIDTH = 64  # of every CLIP text encoder
POSITION_IDS = (
    "text_model.embeddings.position_ids"  # a buffer of early transformers releases; `Component.load` fills it
)


def text_encoder_component(weights: Weights, encoder: EncoderSpec, projection: bool) -> Component:
    """One text encoder; `projection`: with the one of its pooled output. Raises UnusableFile."""

    def source(name: str) -> TensorSource:
        if not encoder.openclip:
            without_wrapper = not weights.has_prefix(f"{encoder.prefix}text_model.")
            return TensorSource(encoder.prefix + (name.removeprefix("text_model.") if without_wrapper else name))
        key = ldm_keys.openclip_key(name)
        if key.transposed and f"{encoder.prefix}{name}" in weights.shapes:  # saved as a linear layer's weight
            return TensorSource(f"{encoder.prefix}{name}")
        return TensorSource(encoder.prefix + key.name, key.chunk, key.num_chunks, key.transposed)

    def matrix_shape(name: str) -> Shape:
        key = source(name)
        shape = weights.shapes.get(key.name)
        if shape is None or len(shape) != 2:
            raise UnusableFile(weights.path, f"its text encoder lacks {key.name}")
        return key.shape_of(shape)

    vocabulary_size, width = matrix_shape(TOKEN_EMBEDDING)
    prefix, suffix = source(f"{ldm_keys.LAYERS}#.layer_norm1.weight").name.split("#")
    num_layers = sum(name.startswith(prefix) and name.endswith(suffix) for name in weights.shapes)
    if num_layers > MAX_LAYERS:
        raise UnusableFile(weights.path, f"its text encoder has {num_layers} layers, more than any has")
    config = {
        "vocab_size": vocabulary_size,
        "hidden_size": width,
        "intermediate_size": matrix_shape(f"{ldm_keys.LAYERS}0.mlp.fc1.weight")[0],
        "max_position_embeddings": matrix_shape(POSITION_EMBEDDING)[0],
        "num_hidden_layers": num_layers,
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "hidden_act": "gelu" if encoder.openclip else "quick_gelu",
        **({"projection_dim": matrix_shape("text_projection.weight")[0]} if projection else {}),
    }
    module = build_text_encoder(config, weights.path, projection)
    keys = {name: source(name) for name in module.state_dict() if name != POSITION_IDS}
    return component_from_keys(module, weights, keys, "text encoder")
