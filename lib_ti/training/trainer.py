"""One training from its pictures to its embedding: load, encode, loop."""

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
from lib_ti.training import init_vectors
from lib_ti.training.dataloader import BatchSource
from lib_ti.training.loop import Loop
from lib_ti.training.metadata import describe
from lib_ti.training.oom_recovery import OomRecovery, give_back
from lib_ti.training.prediction_check import check_prediction_type
from lib_ti.training.preflight.resolve_auto import told_start
from lib_ti.training.preview import Previews
from lib_ti.training.recorder import Recorder
from lib_ti.training.state import LossScaler, TrainState


class Stopped(Exception):
    """The training was stopped before its first step."""


@dataclass
class Trainer:
    """A training of `settings`, in which nothing is "auto" any more, on the run's own copies of the pictures."""

    settings: TrainSettings
    checkpoint: Checkpoint
    examples: Sequence[Example]
    templates: Sequence[str]
    initial: Embedding | None  # to start from, instead of the settings' words
    recorder: Recorder
    stopped: Callable[[], bool] = lambda: False
    sample: Callable[[], bool] = lambda: False  # whether previews were asked for since it was called last

    def run(self) -> bytes | None:
        """Train, or go on from the recorder's saved state. The finished embedding file, or None if stopped before its end."""
        with ThreadPoolExecutor(1, thread_name_prefix="sha256") as pool:
            done = Flag()
            try:
                return self._run(lambda: pool.submit(self.checkpoint.sha256, done.is_set))
            except Stopped:
                return None
            finally:
                done.set()

    def _run(self, hashing: Callable[[], Future[str]]) -> bytes | None:
        """`hashing` begins to compute the checkpoint's hash, some seconds of a large file."""
        s, recorder, device = self.settings, self.recorder, choose_device(self.settings.device)
        # on a CPU its seconds would be taken from the encoding of the pictures
        digest = hashing() if device.type != "cpu" else None
        relief = OomRecovery(s, recorder)
        relief.choose(self.checkpoint, device)
        disable_broken_flash_attention(device, s.precision)

        def load() -> StableDiffusion:
            dtype, acceleration = DTYPES[s.precision], relief.settings.acceleration
            return memory_modes.load(self.checkpoint, dtype, device, relief.mode, acceleration)

        model = relief.attempt(load, None)
        reset_peak_memory()
        cache = LatentCache(recorder.scratch, s.latent_cache_mb << 20)
        try:
            relief.attempt(lambda: self._encode(model, cache), model)
            if not s.preview_every:
                model.vae = None  # its work is done
                give_back()
            state = self._state(model)
            loop = self._loop(model, cache, state, digest or hashing(), relief)
            relief.attempt(lambda: self._look(model, loop), model)
            if not loop.run():
                return None
            recorder.event("saving", step=state.step)
            return loop.pack(state)
        finally:
            cache.close()

    def _encode(self, model: StableDiffusion, cache: LatentCache) -> None:
        """Each picture once, and mirrored if that is asked for."""
        roomy = model.device.type == "cpu" and not model.offload_text_encoders
        with model.vae_on_device(), keep_freed_memory() if roomy else nullcontext():
            for i, view in enumerate(dataset.load_images(self.examples, model.vae_scale_factor)):
                if self.stopped():
                    raise Stopped
                for mirrored in (False, True) if self.settings.flip else (False,):
                    seen = view.mirrored if mirrored else view
                    mean, deviation = model.encode_images(seen.pixels)
                    if not bool(torch.isfinite(mean).all()):
                        name = self.examples[i].path.name
                        raise TrainingFailed(
                            f"the VAE gives no numbers for {name}; try --precision fp32 or another --vae"
                        )
                    cache.put(i, mirrored, LatentDistribution(mean[0].cpu(), deviation[0].cpu(), seen.loss_weight))
                self.recorder.event("encoding", done=i + 1, images=len(self.examples))

    def _state(self, model: StableDiffusion) -> TrainState:
        s = self.settings
        begun = init_vectors.begin(s, model.token_embeddings(), model.tokenizer, self.initial)
        first = {encoder: vectors.to(model.device) for encoder, vectors in begun.items()}
        trained = first.keys() if s.train_encoders == "both" or len(first) == 1 else {s.train_encoders}
        scaler = LossScaler(active=s.precision == "fp16")
        state = TrainState.begin(first, s.weight_decay, scaler, trained)
        if self.recorder.saved_state:
            state.restore(self.recorder.saved_state)
        return state

    def _look(self, model: StableDiffusion, loop: Loop) -> None:
        """Before the first step, at whether the checkpoint predicts what it is trained for."""
        if loop.state.step or self.stopped():
            return
        pictures = next(loop.source.steps(0, self.settings.effective_batch_size))
        if doubt := check_prediction_type(model, loop.source, pictures, loop.state.vectors):
            self.recorder.event("warning", message=doubt)

    def _loop(
        self, model: StableDiffusion, cache: LatentCache, state: TrainState, digest: Future[str], relief: OomRecovery
    ) -> Loop:
        s = self.settings
        word = Placeholder(s.name, 0, s.vectors)
        source = BatchSource(
            examples=self.examples,
            cache=cache,
            captioner=Captioner(s.name, self.templates, s.shuffle_tags, s.tag_dropout, s.caption_dropout),
            tokenizer=model.tokenizer,
            word=word,
            seed=s.seed,
            flip=s.flip,
            times=model.noise_schedule.num_train_timesteps,
        )

        def pack(state: TrainState) -> bytes:
            vectors = {name: value.detach().float().cpu() for name, value in state.vectors.items()}
            metadata = describe(relief.settings, self.checkpoint, model.noise_schedule, digest.result(), state.step)
            if self.initial:
                widths = self.checkpoint.widths_by_encoder
                metadata["start"] = told_start(s, self.checkpoint, self.initial.vectors_for(widths))
            return to_safetensors(Embedding(s.name, vectors, metadata))

        previews = Previews(s, model, word, self.recorder, self.stopped)
        return Loop(s, model, state, source, previews, self.recorder, pack, relief, self.stopped, self.sample)
