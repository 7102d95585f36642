"""txt2img of the standalone host: images with the embeddings in its folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib_ti.errors import UnusableFile
from lib_ti.settings.option import MAX_TEXT
from lib_ti.webui.embedding_index import EmbeddingIndex, FileStamp
from lib_ti.webui.hosts.host import acquired
from lib_ti.webui.standalone.checkpoints import LoadedCheckpoint
from lib_ti.webui.standalone.host import StandaloneHost

if TYPE_CHECKING:  # they import torch, for which the page does not wait
    from PIL import Image

    from lib_ti.embedding.value import Embedding


@dataclass(frozen=True)
class Txt2ImgRequest:
    """Settings of a generation; `width` and `height` in pixels. Image i has the seed `seed` + i."""

    prompt: str
    negative_prompt: str = ""
    steps: int = 20
    guidance: float = 7.0
    width: int = 512
    height: int = 512
    seed: int = 0
    count: int = 1
    sampler: str = "dpm++ 2m"


@dataclass(frozen=True)
class Txt2ImgResult:
    """Images, the generation parameters of each in the WebUIs' format, and a note for the user."""

    images: Sequence[Image.Image]
    infotexts: Sequence[str]
    note: str = ""


class Txt2Img:
    """Generates images. Thread-safe."""

    def __init__(self, host: StandaloneHost, embedding_index: EmbeddingIndex) -> None:
        self._host, self._embedding_index = host, embedding_index
        self._embeddings: dict[FileStamp, Embedding] = {}
        self._interrupts: set[threading.Event] = set()

    @property
    def is_busy(self) -> bool:
        """Whether something is being generated, or waits to be."""
        return bool(self._interrupts)

    def interrupt(self) -> None:
        """Stop every generation, running or waiting; if there is none, stop the training."""
        interrupts = tuple(self._interrupts)
        for interrupt in interrupts:
            interrupt.set()
        if not interrupts:
            self._host.interrupt_training()

    def generate(
        self, request: Txt2ImgRequest, progress: Callable[[float], None] = lambda fraction: None
    ) -> Txt2ImgResult:
        """Generate images, once no training holds the host's lock. Raises UnusableFile for an unusable checkpoint."""
        if len(request.prompt + request.negative_prompt) > MAX_TEXT:
            return Txt2ImgResult([], [], f"The prompt is too long; {MAX_TEXT} characters are the most.")
        interrupt = threading.Event()
        self._interrupts.add(interrupt)
        try:
            with acquired(self._host.lock, interrupt.is_set) as is_acquired:
                if not is_acquired:
                    return Txt2ImgResult([], [], "Interrupted while waiting for the training to end.")
                return self._sample(request, progress, interrupt.is_set)
        finally:
            self._interrupts.discard(interrupt)

    def _sample(
        self, request: Txt2ImgRequest, progress: Callable[[float], None], interrupted: Callable[[], bool]
    ) -> Txt2ImgResult:
        from lib_ti.embedding.combine import combine
        from lib_ti.model.conditioning import Conditioner
        from lib_ti.model.guidance import encoded_texts, guide
        from lib_ti.model.sampling import Interrupted, NonFiniteImage, SamplingParams, sample

        host = self._host
        loaded = host.checkpoint_cache.load(host.selected_checkpoint().path, host.device(), host.precision())
        model, checkpoint = loaded.model, loaded.checkpoint
        texts = encoded_texts(request.prompt, request.negative_prompt, request.steps)
        embeddings = self._embeddings_in(texts, loaded)
        placeholders, vectors = combine(embeddings, checkpoint.widths_by_encoder, model.device)
        conditioner = Conditioner(model, placeholders, vectors)
        guidance = guide(conditioner, request.prompt, request.negative_prompt, request.steps)
        sampling = SamplingParams(request.sampler, request.steps, request.guidance, request.width, request.height)
        done, images, infotexts = 0, [], []

        def report_progress() -> bool:
            nonlocal done
            progress(min(1.0, done / (request.steps * request.count)))
            done += 1
            return interrupted()

        note = ""
        try:
            for seed in range(request.seed, request.seed + request.count):
                images.append(sample(guidance, seed, sampling, report_progress))
                infotexts.append(sampling.infotext(request.prompt, request.negative_prompt, seed, checkpoint.path.stem))
        except Interrupted:
            note = f"Interrupted after {len(images)} of {request.count} pictures."
        except NonFiniteImage as error:
            note = f"There is no picture: {error}"
        return Txt2ImgResult(images, infotexts, note)

    def _embeddings_in(self, texts: Iterable[str], loaded: LoadedCheckpoint) -> list[Embedding]:
        """The fitting embeddings whose names occur in the texts; each version of a file is read once."""
        from lib_ti.embedding.read import read_embedding
        from lib_ti.model.prompt.chunks import mentioned_names

        embeddings: dict[FileStamp, Embedding] = {}
        entries = [entry for entry in self._embedding_index.entries() if entry.fits]
        names = mentioned_names(texts, {entry.name for entry in entries}, loaded.model.prompt_encoder.tokenizer)
        for entry in entries:
            if entry.name not in names:
                continue
            try:
                stamp = FileStamp.of(entry.path)
                embedding = self._embeddings.get(stamp) or read_embedding(entry.path)
            except (UnusableFile, OSError):  # deleted or damaged since it was listed
                continue
            if embedding.widths == loaded.checkpoint.widths:
                embeddings[stamp] = embedding
        self._embeddings = embeddings
        return list(embeddings.values())
