"""A host of our own, for whoever has no WebUI: one checkpoint at a time, and txt2img with the words in the folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lib_ti
from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.webui.embedding_index import EmbeddingIndex, Stamp
from lib_ti.webui.hosts.host import CheckpointChoice, TryLock, holding

if TYPE_CHECKING:  # they bring torch and diffusers, for which the page does not wait
    from PIL import Image

    from lib_ti.embedding.value import Embedding
    from lib_ti.model.checkpoint.checkpoint import Checkpoint
    from lib_ti.model.diffusion import StableDiffusion

PRACTICE = Path(lib_ti.__file__).parent / "practice" / "model" / "practice.safetensors"  # comes with the project


@dataclass(frozen=True)
class Wanted:
    """Pictures that someone wants; `width` and `height` in pixels. Picture i has the seed `seed` + i."""

    prompt: str
    negative: str = ""
    steps: int = 20
    guidance: float = 7.0
    width: int = 512
    height: int = 512
    seed: int = 0
    count: int = 1
    sampler: str = "dpm++ 2m"


@dataclass(frozen=True)
class Made:
    """Pictures, what made each in the WebUIs' notation, and what is to be said about them."""

    images: Sequence[Image.Image]
    infotexts: Sequence[str]
    note: str = ""


@dataclass
class _Loaded:
    stamp: Stamp
    checkpoint: Checkpoint
    model: StableDiffusion


class Standalone:
    """The host of `python -m lib_ti ui`. `lock` is held while anything computes."""

    title = "standalone"
    keeps_snapshots = True
    keeps_pictures = True

    def __init__(self, data: Path, model: Path = PRACTICE, hides_paths: bool = False) -> None:
        """`data`: the folder of words and runs; `model`: a checkpoint, or a folder of them. Raises BadInput without one."""
        self.lock: TryLock = threading.Lock()
        self.hides_paths = hides_paths
        self.embeddings = data.absolute() / "embeddings"
        self.runs = data.absolute() / "textual_inversion"
        self.choices = checkpoints(model.absolute())
        self.library = EmbeddingIndex(self)
        self._selected = self.choices[0]
        self._loaded: _Loaded | None = None
        self._words: dict[Stamp, Embedding] = {}
        self._lent: threading.Event | None = None
        self._generating: set[threading.Event] = set()

    def selected(self) -> CheckpointChoice:
        return self._selected

    def choose(self, title: str) -> None:
        """Select the checkpoint of that title. Raises BadInput if there is none."""
        for choice in self.choices:
            if choice.title == title:
                self._selected = choice
                return
        raise BadInput([Problem("model", f"there is no checkpoint {title}")])

    def side(self) -> int:
        """Of the pictures that the selected checkpoint is made for, in pixels."""
        from lib_ti.model.checkpoint.inspect import describe

        try:
            return describe(self._selected.path).resolution
        except UnusableFile:  # generating will say so
            return 512

    @property
    def is_lent(self) -> bool:
        """Whether a training has the device."""
        return self._lent is not None

    def vae(self) -> Path | None:
        return None

    def device(self) -> str:
        return "auto"

    def precision(self) -> str:
        return "auto"

    @contextmanager
    def lent(self, name: str) -> Iterator[Callable[[], bool]]:
        interrupted = self._lent = threading.Event()
        loaded = self._loaded
        device = loaded.model.device if loaded else None
        try:
            if loaded:
                _move(loaded.model, "cpu")
            yield interrupted.is_set
        finally:
            self._lent = None
            try:
                if loaded:
                    _move(loaded.model, device)
            except RuntimeError:  # no room for it just now: it is read again when it is wanted
                self._loaded = None

    def embeddings_changed(self, names: Sequence[str]) -> None:
        """Nothing to do: files are read again as soon as they are others."""

    def interrupt(self) -> None:
        """Stop what is being generated or waits to be; without any, it is the training that is meant."""
        for event in tuple(self._generating) or (self._lent,):
            if event:
                event.set()

    def generate(self, wanted: Wanted, progress: Callable[[float], None] = lambda share: None) -> Made:
        """Make pictures; waits while a training holds the lock. Takes as long as it takes.

        Raises UnusableFile for a checkpoint that cannot be used.
        """
        interrupted = threading.Event()
        self._generating.add(interrupted)
        try:
            with holding(self.lock, interrupted.is_set) as held:
                if not held:
                    return Made([], [], "Interrupted while waiting for the training to end.")
                return self._sample(wanted, progress, interrupted.is_set)
        finally:
            self._generating.discard(interrupted)

    def _sample(self, wanted: Wanted, progress: Callable[[float], None], interrupted: Callable[[], bool]) -> Made:
        from lib_ti.embedding.combine import combine
        from lib_ti.model.conditioning import Conditioner
        from lib_ti.model.guidance import guide, said
        from lib_ti.model.sampling import Interrupted, NotNumbers, Sampling, sample

        loaded = self._load()
        model, checkpoint = loaded.model, loaded.checkpoint
        named = self._named_in(said(wanted.prompt, wanted.negative, wanted.steps), loaded)
        words, vectors = combine(named, checkpoint.widths_by_encoder, model.device)
        guidance = guide(Conditioner(model, words, vectors), wanted.prompt, wanted.negative, wanted.steps)
        how = Sampling(wanted.sampler, wanted.steps, wanted.guidance, wanted.width, wanted.height)
        done, images, infotexts = 0, [], []

        def stopped() -> bool:
            nonlocal done
            progress(min(1.0, done / (wanted.steps * wanted.count)))
            done += 1
            return interrupted()

        note = ""
        try:
            for seed in range(wanted.seed, wanted.seed + wanted.count):
                images.append(sample(guidance, seed, how, stopped))
                infotexts.append(how.infotext(wanted.prompt, wanted.negative, seed, checkpoint.path.stem))
        except Interrupted:
            note = f"Interrupted after {len(images)} of {wanted.count} pictures."
        except NotNumbers as error:
            note = f"There is no picture: {error}"
        return Made(images, infotexts, note)

    def _load(self) -> _Loaded:
        """The selected checkpoint, loaded unless it is."""
        from lib_ti.model.checkpoint.open import open_checkpoint
        from lib_ti.model.diffusion import StableDiffusion
        from lib_ti.model.speed.device import DTYPES, choose_device, choose_precision

        path = self._selected.path
        stamp = Stamp.of(path)
        if self._loaded is None or self._loaded.stamp != stamp:
            self._loaded = None  # there may not be room for two
            checkpoint = open_checkpoint(path).knows_all_words()
            if checkpoint.vae is None:
                raise UnusableFile(path, "this checkpoint has no VAE of its own")
            device = choose_device(self.device())
            dtype = DTYPES[choose_precision(self.precision(), device, checkpoint.parameters)]
            self._loaded = _Loaded(stamp, checkpoint, StableDiffusion.load(checkpoint, dtype, device))
        return self._loaded

    def _named_in(self, texts: Iterable[str], loaded: _Loaded) -> list[Embedding]:
        """The embeddings that texts may name, of those that fit; each is read once for each state of its file."""
        from lib_ti.embedding.read import read_embedding
        from lib_ti.model.prompt.chunks import mentioned_names

        found: dict[Stamp, Embedding] = {}
        entries = [entry for entry in self.library.entries() if entry.fits]
        names = mentioned_names(texts, {entry.name for entry in entries}, loaded.model.text.tokenizer)
        for entry in entries:
            if entry.name not in names:
                continue
            try:
                stamp = Stamp.of(entry.path)
                embedding = self._words.get(stamp) or read_embedding(entry.path)
            except (UnusableFile, OSError):  # gone or damaged since it was listed
                continue
            if embedding.widths == loaded.checkpoint.widths:
                found[stamp] = embedding
        self._words = found
        return list(found.values())


def checkpoints(model: Path) -> list[CheckpointChoice]:
    """The checkpoint at `model`, or those in that folder and below. Raises BadInput if there is none."""
    if model.is_file() or (model / "model_index.json").is_file():
        return [CheckpointChoice(model.name, model)]
    if not model.is_dir():
        raise BadInput([Problem("model", f"there is no file or folder {model}")])
    found = {
        path.parent if path.name == "model_index.json" else path
        for pattern in ("*.safetensors", "*.ckpt", "model_index.json")
        for path in model.rglob(pattern)
    }
    parts = {folder for folder in found if folder.is_dir()}  # whose own files are no checkpoints
    choices = [p for p in found if not parts.intersection(p.parents)]
    if not choices:
        raise BadInput([Problem("model", f"{model} holds no checkpoint (.safetensors, .ckpt or a diffusers folder)")])
    return [CheckpointChoice(path.relative_to(model).as_posix(), path) for path in sorted(choices)]


def _move(model: StableDiffusion, device: Any) -> None:
    """Take a loaded model's networks elsewhere; what it left on a card is given back."""
    import torch

    for network in model.networks:
        network.to(device)
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
