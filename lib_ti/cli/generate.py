"""The work of the command `generate`: validate the request, then sample."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from lib_ti import files
from lib_ti.embedding.combine import combine, names_of
from lib_ti.embedding.compatibility import incompatibility
from lib_ti.embedding.read import read_for_encoders
from lib_ti.embedding.value import Embedding
from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.open import open_checkpoint, with_vae
from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import encoded_texts, guide
from lib_ti.model.prompt.chunks import mentioned_names
from lib_ti.model.sampling import SamplingParams, sample
from lib_ti.model.speed.device import DTYPES, choose_device, choose_precision
from lib_ti.settings.option import MAX_TEXT
from lib_ti.text import is_encodable, printable
from lib_ti.training.preflight.output_paths import unwritable_reason


@dataclass(frozen=True)
class GenerationRequest:
    """A validated request for `count` images, with seeds counted up from `seed`."""

    checkpoint: Checkpoint
    embeddings: Sequence[Embedding]
    prompt: str
    negative_prompt: str
    out: Path
    count: int
    seed: int
    sampling: SamplingParams
    device: torch.device
    precision: str

    @classmethod
    def from_arguments(cls, values: argparse.Namespace, problems: list[Problem]) -> GenerationRequest:
        """Validate parsed options. Raises BadInput with all problems, those given included."""
        validator = _Validator(problems)
        count = validator.number("count", values.count, int, 1, 100_000)
        seed = validator.number("seed", values.seed, int, 0, 2**32 - 1)
        steps = validator.number("sampling_steps", values.sampling_steps, int, 1, 1000)
        guidance = validator.number("guidance", values.guidance, float, 0, 100)
        clip_skip = (
            None if values.clip_skip == "auto" else int(validator.number("clip_skip", values.clip_skip, int, 1, 12))
        )
        for option in ("prompt", "negative_prompt"):
            if not is_encodable(getattr(values, option)):
                problems.append(Problem(option, "is not readable text"))
            if (length := len(getattr(values, option))) > MAX_TEXT:
                problems.append(Problem(option, f"is {length} characters long; {MAX_TEXT} is the most"))
        checkpoint = validator.checkpoint(values.model, values.vae)
        if checkpoint:
            checkpoint = checkpoint.with_overrides(values.prediction, values.zero_terminal_snr, clip_skip)
            if clip_skip and clip_skip > checkpoint.num_hidden_layers:
                problems.append(
                    Problem(
                        "clip_skip", f"the text encoder of this checkpoint has {checkpoint.num_hidden_layers} layers"
                    )
                )
        resolution = checkpoint.resolution if checkpoint else 512
        width = validator.pixels("width", values.width, resolution)
        height = validator.pixels("height", values.height, resolution)
        embeddings = validator.embeddings(values.embedding, checkpoint)
        device, precision = validator.device(values.device, values.precision, checkpoint)
        if reason := unwritable_reason(values.out, parents=False):
            problems.append(Problem("out", reason))
        if problems or checkpoint is None:
            raise BadInput(problems)
        sampling = SamplingParams(values.sampler, int(steps), guidance, width, height)
        return cls(
            checkpoint, embeddings, values.prompt, values.negative_prompt, values.out, int(count), int(seed), sampling, device,
            precision,
        )  # fmt: skip


def generate_images(request: GenerationRequest) -> None:
    """Write OUT/SEED.png for each seed, with the infotext of AUTOMATIC1111 in the PNG's "parameters".

    Raises TextualInversionError if the model computes NaN.
    """
    model = StableDiffusion.load(request.checkpoint, DTYPES[request.precision], request.device)
    placeholders, vectors = combine(
        request.embeddings, request.checkpoint.widths_by_encoder, model.device, by_token=True
    )
    for embedding in _unused_embeddings(request, model):
        names = " or ".join(map(repr, names_of(embedding)))
        print(
            printable(f"Note: no prompt uses the embedding {embedding.name}; write {names} into one"), file=sys.stderr
        )
    conditioner = Conditioner(model, placeholders, vectors)
    guidance = guide(conditioner, request.prompt, request.negative_prompt, request.sampling.steps)
    request.out.mkdir(exist_ok=True)
    for i in tqdm(range(request.count), unit="picture"):
        seed = request.seed + i
        image = sample(guidance, seed, request.sampling)
        path = request.out / f"{seed}.png"
        info = PngInfo()
        infotext = request.sampling.infotext(
            request.prompt, request.negative_prompt, seed, request.checkpoint.path.stem
        )
        info.add_text("parameters", infotext)
        with files.atomic_write(path) as temporary:
            image.save(temporary, "PNG", pnginfo=info)


def _unused_embeddings(request: GenerationRequest, model: StableDiffusion) -> list[Embedding]:
    """The embeddings that neither prompt calls."""
    texts = encoded_texts(request.prompt, request.negative_prompt, request.sampling.steps)
    names = {name for embedding in request.embeddings for name in names_of(embedding)}
    mentioned = mentioned_names(texts, names, model.prompt_encoder.tokenizer)
    return [embedding for embedding in request.embeddings if mentioned.isdisjoint(names_of(embedding))]


class _Validator:
    """Validates options one by one; each method reports its problems and returns a value to go on with."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def number(self, option: str, text: str, kind: type[int] | type[float], low: float, high: float) -> float:
        try:
            value = kind(text)
        except ValueError:
            self.problems.append(Problem(option, f"{text!r} is not a number"))
            return low
        if not low <= value <= high:
            self.problems.append(Problem(option, f"{text} is out of range; it goes from {low:.15g} to {high:.15g}"))
            return low
        return value

    def pixels(self, option: str, text: str | None, default: int) -> int:
        if text is None:
            return default
        value = int(self.number(option, text, int, 64, 4096))
        if value % 8:
            self.problems.append(Problem(option, f"{value} is not a multiple of 8"))
        return value

    def checkpoint(self, model: Path, vae: Path | None) -> Checkpoint | None:
        option = "model"
        try:
            checkpoint = open_checkpoint(model).require_full_vocabulary()
            option = "vae"
            checkpoint = with_vae(checkpoint, vae) if vae else checkpoint
        except UnusableFile as error:
            self.problems.append(Problem(option, str(error)))
            return None
        if checkpoint.vae is None:
            self.problems.append(Problem("vae", f"{model.name} has no VAE of its own; name a VAE file for it"))
        return checkpoint

    def embeddings(self, paths: Sequence[Path], checkpoint: Checkpoint | None) -> list[Embedding]:
        embeddings = []
        for path in paths:
            try:
                embedding, _ = read_for_encoders(path, len(checkpoint.widths_by_encoder) if checkpoint else 1)
            except UnusableFile as error:
                self.problems.append(Problem("embedding", str(error)))
                continue
            if checkpoint and (reason := incompatibility(embedding, checkpoint)):
                self.problems.append(Problem("embedding", reason))
            embeddings.append(embedding)
        return embeddings

    def device(self, name: str, precision: str, checkpoint: Checkpoint | None) -> tuple[torch.device, str]:
        option, device = "device", torch.device("cpu")
        try:
            device = choose_device(name)
            option = "precision"
            return device, choose_precision(precision, device, checkpoint.unet_parameters if checkpoint else 0)
        except (ValueError, RuntimeError) as error:
            self.problems.append(Problem(option, str(error)))
            return device, "fp32"
