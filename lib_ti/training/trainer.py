"""One training from its images to its embedding: load the checkpoint, encode the images, run the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Flag

import torch

from lib_ti.data.dataset import Example
from lib_ti.data.latent_cache import LatentCache
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import to_safetensors
from lib_ti.errors import UnusableFile
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.memory.peak import reset_peak_memory
from lib_ti.model.speed.device import DTYPES, choose_device, disable_broken_flash_attention
from lib_ti.randomness import derive_seed
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import DataLoader, create_loader
from lib_ti.training.encode_images import ImageEncoder, Stopped
from lib_ti.training.finishing.test_images import make_test_images
from lib_ti.training.health.norms import long_norm, norm_ratio, norm_warning
from lib_ti.training.health.prediction_check import check_prediction_type
from lib_ti.training.health.rollback import ReloadNeeded
from lib_ti.training.init_vectors import init_vectors
from lib_ti.training.loop import Loop
from lib_ti.training.metadata import embedding_metadata, initial_embedding_text
from lib_ti.training.oom_recovery import choose_memory_settings, free_memory, retry_on_oom
from lib_ti.training.optimization.contrast import Contrast
from lib_ti.training.preview import ImageSampler, Previews
from lib_ti.training.recorder import Recorder
from lib_ti.training.start.automatic import choose_start, needs_search
from lib_ti.training.state import TrainState
from lib_ti.training.validation.pictures import PictureSplit, ValidationPicture, split_pictures
from lib_ti.training.validation.validation_set import ValidationSet
from lib_ti.training.validation.validator import Validator

CHECKED_IMAGES = 2  # for the prediction type


@dataclass(frozen=True)
class TrainingResult:
    """An embedding file, and the step that its vectors are of; the last step that was trained, and why it was the last.

    `reason`: empty if it is the last step that was planned.
    """

    embedding: bytes
    step: int
    last_step: int
    reason: str


@dataclass
class Trainer:
    """Trains on the run's own copies of the images. In `settings` preflight has resolved every "auto".

    `initial_embedding`: its vectors are trained further, instead of the init text's. `preview_requested`: whether previews
    were requested since the last call. `contrast_examples`: of good images, for a negative embedding. `notes`: more metadata of
    the embedding.
    """

    settings: TrainSettings
    checkpoint: Checkpoint
    examples: Sequence[Example]
    templates: Sequence[str]
    initial_embedding: Embedding | None
    recorder: Recorder
    contrast_examples: Sequence[Example] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    stop_requested: Callable[[], bool] = lambda: False
    preview_requested: Callable[[], bool] = lambda: False

    def run(self) -> TrainingResult | None:
        """Train, from the recorder's saved state if there is one. None if stopped before the end. Raises TrainingFailed."""
        with ThreadPoolExecutor(1, thread_name_prefix="sha256") as pool:
            done = Flag()
            try:
                while True:
                    try:
                        return self._run(lambda: pool.submit(self.checkpoint.sha256, done.is_set))
                    except ReloadNeeded as reload:
                        self.settings = reload.settings
                    free_memory()  # of the model, which the exception has kept until here
            except Stopped:
                return None
            finally:
                done.set()

    def _run(self, start_hashing: Callable[[], Future[str]]) -> TrainingResult | None:
        """`start_hashing`: compute the checkpoint's hash in the background, seconds for a large file."""
        recorder, device = self.recorder, choose_device(self.settings.device)
        # On a CPU hashing would slow the encoding of the images down.
        sha256 = start_hashing() if device.type != "cpu" else None
        settings = choose_memory_settings(self.settings, self.checkpoint, device, recorder)
        disable_broken_flash_attention(device, settings.precision)
        model, settings = retry_on_oom(lambda s: self._load_model(s, device), settings, recorder)
        reset_peak_memory()
        cache = LatentCache(recorder.scratch, settings.latent_cache_mb << 20)
        try:
            state = self._initial_state(settings, model)
            split = split_pictures(self.examples, settings, state.validations.triples)
            state.validations.min_improvement = split.min_improvement
            encoder = ImageEncoder(model, recorder.event, self.stop_requested)
            _, settings = retry_on_oom(
                lambda s: encoder.encode_training(split.trained, s.flip, cache), settings, recorder, model
            )
            held_back, state.settings = retry_on_oom(
                lambda _: encoder.encode_held_back(split.held_back), settings, recorder, model
            )
            contrast, state.settings = retry_on_oom(
                lambda _: self._contrast(encoder, cache), state.settings, recorder, model
            )
            if not settings.preview_every:
                model.vae = None  # needed for previews only from here on
                free_memory()
            loader = create_loader(state.settings, split.trained, cache, model, self.templates)
            if needs_search(state.settings) and not (self.initial_embedding or recorder.saved_states):
                chosen = choose_start(state.settings, model, loader, cache, recorder, self.stop_requested)
                state = self._initial_state(chosen, model)
                state.validations.min_improvement = split.min_improvement
            loop = self._loop(model, loader, contrast, state, split, held_back, sha256 or start_hashing())
            _, state.settings = retry_on_oom(lambda _: self._check_prediction(loop), state.settings, recorder, model)
            finished = loop.run()
            if state.best_vectors:
                recorder.event("best", step=state.validations.best_step, reason=loop.validator.reason())
            return self._result(loop) if finished else None
        finally:
            cache.close()

    def _contrast(self, encoder: ImageEncoder, cache: LatentCache) -> Contrast | None:
        """The good images of a negative embedding, encoded; they follow the others in the cache."""
        if not self.contrast_examples:
            return None
        offset = len(self.examples)
        encoder.encode_training(self.contrast_examples, self.settings.flip, cache, offset)
        loader = create_loader(self.settings, self.contrast_examples, cache, encoder.model, self.templates)
        return Contrast(replace(loader, cache_offset=offset, seed=derive_seed(loader.seed, "contrast")))

    def _result(self, loop: Loop) -> TrainingResult:
        """The embedding that the settings ask for; vectors that are absurdly long come with a warning."""
        state = loop.state
        step, vectors = loop.validator.best() if state.settings.keep == "best" else (state.step, state.averaged_vectors)
        make_test_images(loop.previews.sampler, vectors)
        self.recorder.event("saving", step=step)
        if warning := norm_warning(norm_ratio(vectors, loop.long_norms), at_delivery=True):
            self.recorder.event("warning", message=warning)
        return TrainingResult(loop.validator.export(vectors, step), step, state.step, state.early_end)

    def _load_model(self, settings: TrainSettings, device: torch.device) -> StableDiffusion:
        dtype, mode = DTYPES[settings.precision], settings.memory_modes[0]
        return memory_modes.load(self.checkpoint, dtype, device, mode, settings.acceleration)

    def _initial_state(self, settings: TrainSettings, model: StableDiffusion) -> TrainState:
        vectors = init_vectors(settings, model.token_embeddings(), model.tokenizer, self.initial_embedding)
        state = TrainState.create(settings, {encoder: v.to(model.device) for encoder, v in vectors.items()})
        if self.recorder.saved_states:
            self._load_state(state, self.recorder.saved_states)
        return state

    def _load_state(self, state: TrainState, paths: Sequence[Path]) -> None:
        """Load the last state that is whole; a warning says if it is not the last. Raises UnusableFile if none is."""
        for path in paths:
            try:
                state.load(path)
            except UnusableFile as error:
                if path == paths[-1]:
                    raise
                damage = error.reason
                continue
            if path != paths[0]:
                message = f"{damage}; the training goes on from the state before it, of step {state.step}"
                self.recorder.event("warning", message=message)
            return

    def _check_prediction(self, loop: Loop) -> None:
        """Before the first step, check whether the checkpoint predicts what it is trained for."""
        state, model = loop.state, loop.model
        if state.step or self.stop_requested():
            return
        indices = next(loop.dataloader.batch_indices(0, state.settings.effective_batch_size))[:CHECKED_IMAGES]
        batch = loop.dataloader.load_batch(0, indices, 0, model.device)
        if warning := check_prediction_type(model, batch, state.vectors):
            self.recorder.event("warning", message=warning)

    def _loop(
        self,
        model: StableDiffusion,
        dataloader: DataLoader,
        contrast: Contrast | None,
        state: TrainState,
        split: PictureSplit,
        held_back: Sequence[ValidationPicture],
        sha256: Future[str],
    ) -> Loop:
        """`held_back`: the latents of the pictures that are not trained on."""
        placeholder = dataloader.placeholder
        previews = Previews(ImageSampler(state, model, placeholder, self.recorder, self.stop_requested))
        measured = held_back or [
            ValidationPicture(e, dataloader.cache.get(i, False)) for i, e in enumerate(split.trained)
        ]
        validator = Validator(
            state=state,
            model=model,
            validation_set=ValidationSet.create(measured, split.triples, dataloader) if split.triples else None,
            recorder=self.recorder,
            export=lambda vectors, step: self._export(model, state.settings, vectors, step, sha256),
            subject=split.subject,
        )
        return Loop(
            model=model,
            state=state,
            dataloader=dataloader,
            contrast=contrast,
            previews=previews,
            validator=validator,
            recorder=self.recorder,
            long_norms={name: long_norm(table) for name, table in model.token_embeddings().items()},
            stop_requested=self.stop_requested,
            preview_requested=self.preview_requested,
        )

    def _export(
        self,
        model: StableDiffusion,
        settings: TrainSettings,
        vectors: Mapping[str, torch.Tensor],
        step: int,
        sha256: Future[str],
    ) -> bytes:
        """The vectors of a step as an embedding file with metadata."""
        values = {name: value.detach().float().cpu() for name, value in vectors.items()}
        metadata = embedding_metadata(settings, self.checkpoint, model.noise_schedule, sha256.result(), step)
        if self.initial_embedding:
            encoders = self.initial_embedding.vectors_for(self.checkpoint.widths_by_encoder)
            metadata["start"] = initial_embedding_text(settings, self.checkpoint, encoders)
        return to_safetensors(Embedding(settings.name, values, {**metadata, **self.notes}))
