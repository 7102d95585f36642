"""Loads embedding files with another program's own code: `python programs.py PROGRAM FOLDER WIDTHS FILE...`.

Run as a script, with the program's own Python if it has one; nothing of this project is imported. The program's modules that do
not load embeddings are replaced by mocks. Prints a JSON object with the result for each file:
{"name": ..., "vectors": {key: [shape, sha256 of the fp32 values]}}, or {"refused": reason}.
"""

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_<> ."


class _MockModule(types.ModuleType):
    """A module with any attribute."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, MagicMock(name=f"{self.__name__}.{name}"))
        return self.__dict__[name]


class _MockFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports mocks for all modules of some packages except those in `real`."""

    def __init__(self, packages, real):
        self._packages, self._real = packages, real

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in self._packages or name in self._real:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = _MockModule(spec.name)
        module.__path__ = [str(Path(sys.path[0], *spec.name.split(".")))]
        return module

    def exec_module(self, module):
        pass


def mock_packages(folder, packages, real=()):
    sys.path.insert(0, str(folder))
    sys.meta_path.insert(0, _MockFinder(set(packages), set(real)))


def loaded(name, vectors):
    """The result for a file that was loaded: its name, and the vectors by key."""
    import torch

    digests = {}
    for key, tensor in vectors.items():
        tensor = tensor.detach().to("cpu", torch.float32).contiguous()
        tensor = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
        digests[key] = [list(tensor.shape), hashlib.sha256(tensor.numpy().tobytes()).hexdigest()]
    return {"name": name, "vectors": digests}


# --- A1111 and its descendants -------------------------------------------------------------------------------------


def _load_with_webui(database, model, width, file):
    database.expected_shape = width
    database.load_from_file(str(file), file.name)
    if database.skipped_embeddings:
        raise ValueError("skipped: it is not for this model")
    if not database.word_embeddings:
        raise ValueError("nothing was loaded")
    ((name, embedding),) = database.word_embeddings.items()
    return loaded(name, embedding.vec if isinstance(embedding.vec, dict) else {"": embedding.vec})


def a1111(folder, widths, file):
    """Its unpickler replaces torch.load, as in the running program."""
    errors = sys.modules["modules.errors"] = _MockModule("modules.errors")

    def report(message, exc_info=False):
        raise ValueError(str(sys.exc_info()[1]))

    errors.report = report
    import torch

    importlib.import_module("modules.safe")
    module = importlib.import_module("modules.textual_inversion.textual_inversion")
    module.devices.device = torch.device("cpu")
    module.shared.cmd_opts.disable_safe_unpickle = False
    module.shared.sd_model = model = SimpleNamespace(
        cond_stage_model=SimpleNamespace(
            tokenize=lambda texts: [[CHARACTERS.find(c.lower()) for c in t] for t in texts]
        )
    )
    if file.suffix in (".pt", ".bin"):
        module.torch.load = sys.modules["modules.safe"].load
    return _load_with_webui(module.EmbeddingDatabase(), model, sum(widths), file)


def forge(folder, widths, file):
    module = importlib.import_module("backend.text_processing.textual_inversion")

    def tokenizer(texts, **_):
        return {"input_ids": [[CHARACTERS.find(c.lower()) for c in text] for text in texts]}

    return _load_with_webui(module.EmbeddingDatabase(tokenizer), None, sum(widths), file)


def sdnext(folder, widths, file):
    """Up to the token embeddings of text encoders of these widths."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    module = importlib.import_module("modules.textual_inversion")

    class Limit:
        def __enter__(self):
            return lambda: None

        def __exit__(self, *_):
            return False

    def fail(error, *_):
        raise error

    module.limit_errors, module.errors.display = lambda _: Limit(), fail
    module.devices.inference_context, module.devices.device = torch.no_grad, torch.device("cpu")
    parts = {}
    for i, width in enumerate(widths):
        end = f"_{i + 1}" if i else ""
        sizes = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        parts[f"tokenizer{end}"] = _tokenizer()
        parts[f"text_encoder{end}"] = CLIPTextModel(CLIPTextConfig(**sizes))
    module.shared.sd_model = model = SimpleNamespace(**parts)
    module.shared.sd_loaded = module.shared.opts.diffusers_enable_embed = True
    module.shared.opts.diffusers_convert_embed = False
    module.shared.opts.embeddings_dir = str(file.parent)
    database = module.EmbeddingDatabase()
    database.load_diffusers_embedding([str(file)])
    if not database.word_embeddings:
        raise ValueError("nothing was loaded")
    ((name, embedding),) = database.word_embeddings.items()
    vectors = {}
    for i, _ in enumerate(widths):
        end = f"_{i + 1}" if i else ""
        ids = getattr(model, f"tokenizer{end}").convert_tokens_to_ids(embedding.tokens)
        vectors[str(i)] = getattr(model, f"text_encoder{end}").get_input_embeddings().weight[ids]
    return loaded(name, vectors)


# --- others --------------------------------------------------------------------------------------------------------


def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(
        Path(__file__).resolve().parents[2] / "lib_ti" / "model" / "prompt" / "clip_vocab"
    )


def comfyui(folder, widths, file):
    """As its tokenizers do for each text encoder. It later ignores vectors of another width, with a warning."""
    module = importlib.import_module("comfy.sd1_clip")
    keys = {(768,): ["clip_l"], (1024,): ["clip_h"], (768, 1280): ["clip_l", "clip_g"]}[tuple(widths)]
    vectors = {}
    for key, width in zip(keys, widths, strict=True):
        embedding = module.load_embed(file.stem, [str(file.parent)], width, key)
        if embedding is None or embedding.shape[-1] != width:
            raise ValueError("shape mismatch")
        vectors[key] = embedding
    return loaded(file.stem, vectors)


def sd_scripts(folder, widths, file):
    two = len(widths) > 1
    module = importlib.import_module("sdxl_train_textual_inversion" if two else "train_textual_inversion")
    trainer = module.SdxlTextualInversionTrainer if two else module.TextualInversionTrainer
    vectors_by_encoder = trainer.load_weights(None, str(file))
    if [v.shape[-1] for v in vectors_by_encoder] != widths:
        raise ValueError("other widths")
    return loaded(file.stem, {str(i): vectors for i, vectors in enumerate(vectors_by_encoder)})


def onetrainer(folder, widths, file):
    """Its loader, and the keys that its trainers then read."""
    module = importlib.import_module("modules.modelLoader.mixin.EmbeddingLoaderMixin")
    loader = type("Loader", (module.EmbeddingLoaderMixin,), {})()
    model = SimpleNamespace(embedding_state_dicts={})
    names = SimpleNamespace(all_embedding=lambda: [SimpleNamespace(uuid="1", model_name=str(file))])
    loader._load(model, str(file.parent), names)
    keys = ["clip_l", "clip_g"] if len(widths) > 1 else ["emp_params"]
    return loaded(file.stem, {key: model.embedding_state_dicts["1"][key] for key in keys})


def invokeai(folder, widths, file):
    """Its classification of the file, and its loader. picklescan is used if it is installed."""
    try:
        importlib.import_module("picklescan.scanner")
    except ImportError:
        clean = SimpleNamespace(infected_files=0, scan_err=False)
        scanner = sys.modules["picklescan.scanner"] = _MockModule("picklescan.scanner")
        sys.modules["picklescan"] = _MockModule("picklescan")
        scanner.scan_file_path = lambda path: clean
    configs = importlib.import_module("invokeai.backend.model_manager.configs.textual_inversion")
    disk = importlib.import_module("invokeai.backend.model_manager.model_on_disk")
    model = disk.ModelOnDisk(file)
    config = {768: configs.TI_File_SD1_Config, 1024: configs.TI_File_SD2_Config, 1280: configs.TI_File_SDXL_Config}
    kind = config[widths[-1]]
    if not kind._file_looks_like_embedding(model):
        raise ValueError("it is not taken for an embedding")
    kind._validate_base(model)
    raw = importlib.import_module("invokeai.backend.textual_inversion").TextualInversionModelRaw
    embedding = raw.from_checkpoint(file)
    second = {} if embedding.embedding_2 is None else {"2": embedding.embedding_2}
    return loaded(file.stem, {"1": embedding.embedding, **second})


def diffusers(folder, widths, file):
    """`load_textual_inversion`; for two text encoders two files, of which this is the first."""
    import torch
    from diffusers.loaders import TextualInversionLoaderMixin
    from transformers import CLIPTextConfig, CLIPTextModel

    class Pipeline(TextualInversionLoaderMixin):
        hf_device_map = None

        def __init__(self, width):
            sizes = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
            self.tokenizer, self.text_encoder = _tokenizer(), CLIPTextModel(CLIPTextConfig(**sizes, vocab_size=49500))
            self.text_encoder.resize_token_embeddings = lambda size: (
                None
            )  # the vocabulary above has room; transformers takes seconds
            self.components = {"text_encoder": self.text_encoder}

    files = [file, file.with_name(f"{file.stem}_2{file.suffix}")][: len(widths)]
    vectors = {}
    for width, path in zip(widths, files, strict=True):
        pipeline = Pipeline(width)
        before = len(pipeline.tokenizer)
        pipeline.load_textual_inversion(str(path.parent), weight_name=path.name)
        ids = list(range(before, len(pipeline.tokenizer)))
        vectors[str(width)] = pipeline.text_encoder.get_input_embeddings().weight[ids]
        name = pipeline.tokenizer.convert_ids_to_tokens(ids[0])
    with torch.no_grad():
        return loaded(name, vectors)


_TI = "modules.textual_inversion"
_INVOKE = "invokeai.backend"
PROGRAMS = {
    "a1111": (a1111, ["modules"], ["modules.safe", f"{_TI}.textual_inversion", f"{_TI}.image_embedding"]),
    "reforge": (a1111, ["modules"], ["modules.safe", f"{_TI}.textual_inversion", f"{_TI}.image_embedding"]),
    "forge": (forge, ["backend"], ["backend.text_processing.textual_inversion"]),
    "sdnext": (sdnext, ["modules"], ["modules.textual_inversion"]),
    "comfyui": (comfyui, ["comfy"], ["comfy.sd1_clip"]),
    "sd-scripts": (
        sd_scripts, ["library", "toml", "accelerate", "diffusers"], ["train_textual_inversion"],
    ),
    "onetrainer": (onetrainer, ["modules"], ["modules.modelLoader.mixin.EmbeddingLoaderMixin"]),
    "invokeai": (
        invokeai,
        ["invokeai", "gguf", "compel", "onnxruntime", "diffusers"],
        [
            f"{_INVOKE}.textual_inversion", f"{_INVOKE}.raw_model", f"{_INVOKE}.util.silence_warnings",
            f"{_INVOKE}.patches.lora_conversions.peft_adapter_utils", f"{_INVOKE}.model_manager.configs.textual_inversion",
            f"{_INVOKE}.model_manager.configs.base", f"{_INVOKE}.model_manager.configs.identification_utils",
            f"{_INVOKE}.model_manager.model_on_disk", f"{_INVOKE}.model_manager.taxonomy",
        ],
    ),
    "diffusers": (diffusers, [], []),
}  # fmt: skip
"""For each program the function that loads a file, the packages to mock, and their modules to import all the same."""


def main(program, folder, widths, files):
    load, packages, real = PROGRAMS[program]
    mock_packages(folder, packages, real)
    results = {}
    for file in files:
        try:
            results[file] = load(Path(folder), [int(w) for w in widths.split("+")], Path(file))
        except Exception as error:  # of any class: the program's own
            results[file] = {"refused": f"{type(error).__name__}: {error}"}
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
