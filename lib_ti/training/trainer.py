"""One training from its images to its embedding: load the checkpoint, encode the images, run the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Event as Flag

import torch

from lib_ti.data import dataset
from lib_ti.data.captions import Captioner
from lib_ti.data.dataset import Example
from lib_ti.data.latent_cache import LatentCache, LatentDistribution
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import to_safetensors
from lib_ti.errors import TrainingFailed
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.memory import modes as memory_modes
from lib_ti.model.memory.malloc import keep_freed_memory
from lib_ti.model.memory.peak import reset_peak_memory
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.speed.device import DTYPES, choose_device, disable_broken_flash_attention
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.dataloader import DataLoader
from lib_ti.training.finishing.test_images import make_test_images
from lib_ti.training.init_vectors import init_vectors
from lib_ti.training.loop import Loop
from lib_ti.training.metadata import embedding_metadata, initial_embedding_text
from lib_ti.training.oom_recovery import choose_memory_settings, free_memory, retry_on_oom
from lib_ti.training.prediction_check import check_prediction_type
from lib_ti.training.preview import ImageSampler, Previews
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import TrainState

CHECKED_IMAGES = 2  # for the prediction type


class Stopped(Exception):
    """The training was stopped before its first step."""


@dataclass
class Trainer:
    """Trains on the run's own copies of the images. In `settings` preflight has resolved every "auto".

    `initial_embedding`: its vectors are trained further, instead of the init text's. `preview_requested`: whether previews
    were requested since the last call.
    """

    settings: TrainSettings
    checkpoint: Checkpoint
    examples: Sequence[Example]
    templates: Sequence[str]
    initial_embedding: Embedding | None
    recorder: Recorder
    stop_requested: Callable[[], bool] = lambda: False
    preview_requested: Callable[[], bool] = lambda: False

    def run(self) -> bytes | None:
        """Train, from the recorder's saved state if there is one. The embedding file, or None if stopped before the end."""
        with ThreadPoolExecutor(1, thread_name_prefix="sha256") as pool:
            done = Flag()
            try:
                return self._run(lambda: pool.submit(self.checkpoint.sha256, done.is_set))
            except Stopped:
                return None
            finally:
                done.set()

    def _run(self, start_hashing: Callable[[], Future[str]]) -> bytes | None:
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
            _, settings = retry_on_oom(lambda s: self._encode_images(s, model, cache), settings, recorder, model)
            if not settings.preview_every:
                model.vae = None  # needed for previews only from here on
                free_memory()
            state = self._initial_state(settings, model)
            loop = self._loop(model, cache, state, sha256 or start_hashing())
            _, state.settings = retry_on_oom(lambda _: self._check_prediction(loop), settings, recorder, model)
            if not loop.run():
                return None
            make_test_images(loop.previews.sampler, state.vectors)
            recorder.event("saving", step=state.step)
            return loop.export()
        finally:
            cache.close()

    def _load_model(self, settings: TrainSettings, device: torch.device) -> StableDiffusion:
        dtype, mode = DTYPES[settings.precision], settings.memory_modes[0]
        return memory_modes.load(self.checkpoint, dtype, device, mode, settings.acceleration)

    def _encode_images(self, settings: TrainSettings, model: StableDiffusion, cache: LatentCache) -> None:
        """Encode each image once, and mirrored if the settings ask for it."""
        keep_freed = model.device.type == "cpu" and not model.offload_text_encoders
        with model.vae_on_device(), keep_freed_memory() if keep_freed else nullcontext():
            for i, example_image in enumerate(dataset.load_images(self.examples, model.vae_scale_factor)):
                if self.stop_requested():
                    raise Stopped
                for mirrored in (False, True) if settings.flip else (False,):
                    image = example_image.mirrored if mirrored else example_image
                    mean, std = model.encode_images(image.pixels)
                    if not bool(torch.isfinite(mean).all()):
                        name = self.examples[i].path.name
                        raise TrainingFailed(
                            f"the VAE gives no numbers for {name}; try --precision fp32 or another --vae"
                        )
                    cache.put(i, mirrored, LatentDistribution(mean[0].cpu(), std[0].cpu(), image.loss_weight))
                self.recorder.event("encoding", done=i + 1, images=len(self.examples))

    def _initial_state(self, settings: TrainSettings, model: StableDiffusion) -> TrainState:
        vectors = init_vectors(settings, model.token_embeddings(), model.tokenizer, self.initial_embedding)
        state = TrainState.create(settings, {encoder: v.to(model.device) for encoder, v in vectors.items()})
        if self.recorder.saved_state:
            state.load(self.recorder.saved_state)
        return state

    def _check_prediction(self, loop: Loop) -> None:
        """Before the first step, check whether the checkpoint predicts what it is trained for."""
        state, model = loop.state, loop.model
        if state.step or self.stop_requested():
            return
        indices = next(loop.dataloader.batch_indices(0, state.settings.effective_batch_size))[:CHECKED_IMAGES]
        batch = loop.dataloader.load_batch(0, indices, 0, model.device)
        if warning := check_prediction_type(model, batch, state.vectors):
            self.recorder.event("warning", message=warning)

    def _loop(self, model: StableDiffusion, cache: LatentCache, state: TrainState, sha256: Future[str]) -> Loop:
        s = state.settings
        placeholder = Placeholder(s.name, 0, s.vectors)
        dataloader = DataLoader(
            examples=self.examples,
            cache=cache,
            captioner=Captioner(s.name, self.templates, s.shuffle_tags, s.tag_dropout, s.caption_dropout),
            tokenizer=model.tokenizer,
            placeholder=placeholder,
            seed=s.seed,
            flip=s.flip,
            num_timesteps=model.noise_schedule.num_train_timesteps,
        )
        previews = Previews(ImageSampler(state, model, placeholder, self.recorder, self.stop_requested))
        return Loop(
            model=model,
            state=state,
            dataloader=dataloader,
            previews=previews,
            recorder=self.recorder,
            export=lambda: self._export(model, state, sha256),
            stop_requested=self.stop_requested,
            preview_requested=self.preview_requested,
        )

    def _export(self, model: StableDiffusion, state: TrainState, sha256: Future[str]) -> bytes:
        """The current vectors as an embedding file with metadata."""
        settings = state.settings
        vectors = {name: value.detach().float().cpu() for name, value in state.vectors.items()}
        metadata = embedding_metadata(settings, self.checkpoint, model.noise_schedule, sha256.result(), state.step)
        if self.initial_embedding:
            encoders = self.initial_embedding.vectors_for(self.checkpoint.widths_by_encoder)
            metadata["start"] = initial_embedding_text(settings, self.checkpoint, encoders)
        return to_safetensors(Embedding(settings.name, vectors, metadata))
