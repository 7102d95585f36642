"""What AUTOMATIC1111's own code makes of prompts: `python conditioning.py FOLDER REQUEST.json OUT.safetensors`.

Started with the program's own Python, so nothing of this project is imported. Its text encoders are built by its own classes,
in the sizes that the request names, and get the weights of the checkpoint; all settings are its defaults. The request:

    {"family": "sd1", "checkpoint": FILE, "embeddings": FOLDER, "tokenizer": FOLDER, "steps": 10,
     "encoders": {PREFIX: [width, layers, projection or 0]}, "frame_width": 32,
     "asked": [{"prompt": ..., "negative": false, "clip_skip": 1}, ...]}

OUT holds for prompt number I its tensors as one text, unless it is a negative one: "I.crossattn", and for SDXL "I.vector";
and as txt2img divides it, for part P and stage S, "I.P.S.crossattn" ..., with the parts' weights and the stages' ends in the
metadata.
"""

import json
import sys
import tempfile
from pathlib import Path


def start(folder, embeddings):
    """The program's modules, as its server starts them, with none of its user's settings."""
    sys.argv = [
        "webui.py", "--use-cpu", "all", "--no-half", "--precision", "full", "--skip-version-check", "--data-dir",
        tempfile.mkdtemp(), "--embeddings-dir", str(embeddings),
    ]  # fmt: skip
    sys.path.insert(0, str(folder))
    from modules import initialize

    initialize.imports()
    initialize.check_versions()
    import modules.script_callbacks  # noqa: F401


def clip(width, layers, tokenizer, **options):
    """Its class for OpenAI's CLIP, for an encoder of these sizes. `options`: of SDXL's."""
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


def openclip(width, layers, projection, **options):
    """Its class for OpenCLIP, for an encoder of these sizes. `options`: of SDXL's."""
    import open_clip

    if options:
        from sgm.modules.encoders.modules import FrozenOpenCLIPEmbedder2 as Embedder
    else:
        from ldm.modules.encoders.modules import FrozenOpenCLIPEmbedder as Embedder
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": max(1, width // 64), "layers": layers}
    sight = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"embed_dim": projection or width, "vision_cfg": sight, "text_cfg": text}
        (Path(folder) / "sized.json").write_text(json.dumps(sizes))
        open_clip.add_model_config(Path(folder) / "sized.json")
        return Embedder(arch="sized", version=None, device="cpu", layer="penultimate", **options)


def build(request):
    """Its model, without UNet and VAE, made ready as it makes every model ready."""
    import torch
    from modules import devices, sd_hijack, sd_models, sd_models_xl
    from safetensors import safe_open

    devices.dtype_unet = torch.float32  # as where it reads a checkpoint with --no-half

    def filled(embedder, prefix):
        with safe_open(request["checkpoint"], "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            own = {name[len(prefix) :]: file.get_tensor(name).float() for name in names}
        inner = embedder.transformer if hasattr(embedder, "transformer") else embedder.model
        missing, unexpected = inner.load_state_dict(own, strict=False)
        left = [name for name in missing if not name.endswith(("position_ids", "attn_mask"))]
        assert not left, left
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
        first = clip(width, layers, request["tokenizer"], layer="hidden", layer_idx=layers - 1)
        second = openclip(*sizes[1][1], always_return_pooled=True, legacy=False)
        from sgm.modules.encoders.modules import ConcatTimestepEmbedderND

        frames = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
        embedders = {
            ("txt", 1): filled(first, prefix),
            ("txt", 2): filled(second, sizes[1][0]),
            **{(key, 0): ConcatTimestepEmbedderND(request["frame_width"]) for key in frames},
        }
        for (key, _), embedder in embedders.items():
            embedder.input_key, embedder.ucg_rate = key, 0.0
            embedder.legacy_ucg_val, embedder.is_trainable = None, False
        model.conditioner.embedders = torch.nn.ModuleList(embedders.values())
    else:
        model = Model()
        made = openclip(width, layers, 0) if request["family"] == "sd2" else clip(width, layers, request["tokenizer"])
        model.cond_stage_model = filled(made, prefix)
    model.requires_grad_(False)
    sd_models.model_data.set_sd_model(model)
    sd_hijack.model_hijack.hijack(model)
    sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)
    return model


def conditions(model, request):
    """The tensors by name, and weights and ends."""
    import torch
    from modules import prompt_parser, shared
    from modules.processing_scripts.comments import strip_comments

    tensors, told, steps = {}, {}, request["steps"]

    def put(name, found):
        parts = found if isinstance(found, dict) else {"crossattn": found}
        tensors.update({f"{name}.{key}": value.float().clone() for key, value in parts.items()})

    for i, asked in enumerate(request["asked"]):
        shared.opts.CLIP_stop_at_last_layers = asked["clip_skip"]
        texts = prompt_parser.SdConditioning([asked["prompt"]], asked["negative"], 64, 64)
        with torch.no_grad():
            whole = None if asked["negative"] else model.get_learned_conditioning(texts)
            texts[0] = strip_comments(texts[0])
            if asked["negative"]:
                parts = [(1.0, prompt_parser.get_learned_conditioning(model, texts, steps)[0])]
            else:
                found = prompt_parser.get_multicond_learned_conditioning(model, texts, steps).batch[0]
                parts = [(part.weight, part.schedules) for part in found]
        if whole is not None:
            put(f"{i}", {k: v[0] for k, v in whole.items()} if isinstance(whole, dict) else whole[0])
        told[i] = [[weight, [stage.end_at_step for stage in stages]] for weight, stages in parts]
        for p, (_, stages) in enumerate(parts):
            for s, stage in enumerate(stages):
                put(f"{i}.{p}.{s}", stage.cond)
    return tensors, told


def main(folder, request, out):
    request = json.loads(Path(request).read_text(encoding="utf-8"))
    start(folder, request["embeddings"])
    from safetensors.torch import save_file

    tensors, told = conditions(build(request), request)
    save_file(tensors, out, {"parts": json.dumps(told)})


if __name__ == "__main__":
    main(*sys.argv[1:])
