"""Prompts' conditioning by AUTOMATIC1111's own code: `python conditioning.py FOLDER REQUEST.json OUT.safetensors`.

Run with the program's own Python; nothing of this project is imported. The text encoders are of the program's classes, in the
request's sizes and with the checkpoint's weights; all settings are the defaults. The request:

    {"family": "sd1", "checkpoint": FILE, "embeddings": FOLDER, "tokenizer": FOLDER, "steps": 10,
     "encoders": {PREFIX: [width, layers, projection or 0]}, "size_embedding_width": 32,
     "prompts": [{"prompt": ..., "negative": false, "clip_skip": 1}, ...]}

OUT holds the tensors of prompt I encoded as one text, unless it is negative: "I.crossattn", and for SDXL "I.vector"; and those of
the prompt as txt2img splits it, for subprompt P (joined by AND) and stage S (of its schedule): "I.P.S.crossattn" and so on.
The subprompts' weights and the stages' end steps are in the metadata.
"""

import json
import sys
import tempfile
from pathlib import Path


def import_webui(folder, embeddings):
    """Import the program's modules as its server does, without any user's settings."""
    sys.argv = [
        "webui.py", "--use-cpu", "all", "--no-half", "--precision", "full", "--skip-version-check", "--data-dir",
        tempfile.mkdtemp(), "--embeddings-dir", str(embeddings),
    ]  # fmt: skip
    sys.path.insert(0, str(folder))
    from modules import initialize

    initialize.imports()
    initialize.check_versions()
    import modules.script_callbacks  # noqa: F401


def build_clip(width, layers, tokenizer, **options):
    """The program's module for OpenAI's CLIP in these sizes; with `options` the one for SDXL."""
    from transformers import CLIPTextConfig, CLIPTextModel

    if options:
        from sgm.modules.encoders.modules import FrozenCLIPEmbedder
    else:
        from ldm.modules.encoders.modules import FrozenCLIPEmbedder
    sizes = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64),
        projection_dim=width, bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for file in Path(tokenizer).iterdir():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        CLIPTextModel(sizes).save_pretrained(folder)
        return FrozenCLIPEmbedder(folder, device="cpu", **options)


def build_openclip(width, layers, projection, **options):
    """The program's module for OpenCLIP in these sizes; with `options` the one for SDXL."""
    import open_clip

    if options:
        from sgm.modules.encoders.modules import FrozenOpenCLIPEmbedder2 as Embedder
    else:
        from ldm.modules.encoders.modules import FrozenOpenCLIPEmbedder as Embedder
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": max(1, width // 64), "layers": layers}
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"embed_dim": projection or width, "vision_cfg": vision, "text_cfg": text}
        (Path(folder) / "sized.json").write_text(json.dumps(sizes))
        open_clip.add_model_config(Path(folder) / "sized.json")
        return Embedder(arch="sized", version=None, device="cpu", layer="penultimate", **options)


def build_model(request):
    """The program's model without UNet and VAE, hijacked as it does with every model."""
    import torch
    from modules import devices, sd_hijack, sd_models, sd_models_xl
    from safetensors import safe_open

    devices.dtype_unet = torch.float32  # as with --no-half

    def load_weights(embedder, prefix):
        with safe_open(request["checkpoint"], "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            state = {name[len(prefix) :]: file.get_tensor(name).float() for name in names}
        inner = embedder.transformer if hasattr(embedder, "transformer") else embedder.model
        missing, unexpected = inner.load_state_dict(state, strict=False)
        missing = [name for name in missing if not name.endswith(("position_ids", "attn_mask"))]
        assert not missing, missing
        assert set(unexpected) <= {"text_model.embeddings.position_ids", "logit_scale"}, unexpected
        return embedder.eval()

    class Model(torch.nn.Module):
        cond_stage_key = "txt"

        def get_learned_conditioning(self, texts):
            return self.cond_stage_model(texts)

    class ModelXL(Model):
        get_learned_conditioning = sd_models_xl.get_learned_conditioning

    sizes = list(request["encoders"].items())
    prefix, (width, layers, _) = sizes[0]
    if request["family"] == "sdxl":
        from sgm.modules import GeneralConditioner

        model = ModelXL()
        model.conditioner = GeneralConditioner([])
        first = build_clip(width, layers, request["tokenizer"], layer="hidden", layer_idx=layers - 1)
        second = build_openclip(*sizes[1][1], always_return_pooled=True, legacy=False)
        from sgm.modules.encoders.modules import ConcatTimestepEmbedderND

        size_keys = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
        embedders = {
            ("txt", 1): load_weights(first, prefix),
            ("txt", 2): load_weights(second, sizes[1][0]),
            **{(key, 0): ConcatTimestepEmbedderND(request["size_embedding_width"]) for key in size_keys},
        }
        for (key, _), embedder in embedders.items():
            embedder.input_key, embedder.ucg_rate = key, 0.0
            embedder.legacy_ucg_val, embedder.is_trainable = None, False
        model.conditioner.embedders = torch.nn.ModuleList(embedders.values())
    else:
        model = Model()
        embedder = (
            build_openclip(width, layers, 0)
            if request["family"] == "sd2"
            else build_clip(width, layers, request["tokenizer"])
        )
        model.cond_stage_model = load_weights(embedder, prefix)
    model.requires_grad_(False)
    sd_models.model_data.set_sd_model(model)
    sd_hijack.model_hijack.hijack(model)
    sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)
    return model


def compute_conditioning(model, request):
    """The tensors by name, and for each prompt the weights and end steps."""
    import torch
    from modules import prompt_parser, shared
    from modules.processing_scripts.comments import strip_comments

    tensors, schedules, steps = {}, {}, request["steps"]

    def add(name, conditioning):
        parts = conditioning if isinstance(conditioning, dict) else {"crossattn": conditioning}
        tensors.update({f"{name}.{key}": value.float().clone() for key, value in parts.items()})

    for i, prompt in enumerate(request["prompts"]):
        shared.opts.CLIP_stop_at_last_layers = prompt["clip_skip"]
        texts = prompt_parser.SdConditioning([prompt["prompt"]], prompt["negative"], 64, 64)
        with torch.no_grad():
            whole = None if prompt["negative"] else model.get_learned_conditioning(texts)
            texts[0] = strip_comments(texts[0])
            if prompt["negative"]:
                parts = [(1.0, prompt_parser.get_learned_conditioning(model, texts, steps)[0])]
            else:
                multicond = prompt_parser.get_multicond_learned_conditioning(model, texts, steps).batch[0]
                parts = [(part.weight, part.schedules) for part in multicond]
        if whole is not None:
            add(f"{i}", {k: v[0] for k, v in whole.items()} if isinstance(whole, dict) else whole[0])
        schedules[i] = [[weight, [stage.end_at_step for stage in stages]] for weight, stages in parts]
        for p, (_, stages) in enumerate(parts):
            for s, stage in enumerate(stages):
                add(f"{i}.{p}.{s}", stage.cond)
    return tensors, schedules


def main(folder, request, out):
    request = json.loads(Path(request).read_text(encoding="utf-8"))
    import_webui(folder, request["embeddings"])
    from safetensors.torch import save_file

    tensors, schedules = compute_conditioning(build_model(request), request)
    save_file(tensors, out, {"parts": json.dumps(schedules)})


if __name__ == "__main__":
    main(*sys.argv[1:])
