"""All options of a training, each declared once.

The command line, its help, the settings file, the form and the documentation derive from the fields of `TrainSettings`: a
field's type says how its value is parsed (see `parsing`), its `Option` which values are valid and what it means.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from lib_ti.settings.option import Option, to_json_value

MEMORY_MODES = ("fast", "balanced", "low")
"""From the fastest, which needs the most memory, to the leanest; see `model.memory.modes`."""

NAME_SLOT, CAPTION_SLOT = "[name]", "[filewords]"
"""Stand for the placeholder and for the image's caption in templates; the first also in preview prompts."""


def _option(default: Any, help: str, section: str, **more: Any) -> Any:
    return field(default=default, metadata={"option": Option(help, section, **more)})


def _required(help: str, section: str, metavar: str) -> Any:
    return field(metadata={"option": Option(help, section, metavar=metavar)})


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of one training. None stands for "auto" where the value is a number."""

    images: Path = _required("folder of the pictures to learn from", "Pictures", "DIR")
    name: str = _required("the new word, and the name of its file", "Word", "NAME")
    kind: str = _option(
        "subject", "what the word stands for; chooses the training prompts", "Word",
        choices=("subject", "style", "negative"),
    )  # fmt: skip
    init_text: str = _option("auto", "the closest ordinary word; auto: the words that fit the pictures best", "Word")
    init_random: bool = _option(False, "start from random vectors instead", "Word")
    init_embedding: Path | None = _option(None, "start from this embedding file instead", "Word", metavar="FILE")
    consent: bool = _option(False, "the person in the pictures has agreed", "Word")
    vectors: int = _option(
        3, "tokens that the word takes up: more hold more detail but leave less room in prompts", "Word",
        unit="vectors", low=1, high=75,
    )  # fmt: skip

    steps: int = _option(500, "length of the training", "How long", unit="steps", low=1, high=1_000_000)
    early_stop: bool = _option(True, "end early once the validation loss stops falling", "Validation")
    validate_every: int | None = _option(
        None, "steps between measurements of the validation loss, on pictures held back if there are a dozen; 0: never; "
        "auto: so often that it takes a tenth of the time", "Validation",
        unit="steps", low=0, high=1e6,
    )  # fmt: skip
    keep: str = _option(
        "best", "which step becomes the embedding: the best by validation loss, or the last", "Validation",
        choices=("best", "last"),
    )  # fmt: skip

    model: Path = _required("Stable Diffusion checkpoint (.safetensors, .ckpt) or diffusers folder", "Model", "FILE")
    vae: Path | None = _option(None, "use this VAE instead of the checkpoint's own", "Model", metavar="FILE")
    prediction: str = _option(
        "auto", "what the model predicts; auto: as its files say, or as a test shows", "Model",
        choices=("auto", "epsilon", "v"),
    )  # fmt: skip
    zero_terminal_snr: str = _option(
        "auto", "whether the model was trained down to pure noise; auto: as its files say", "Model",
        choices=("auto", "yes", "no"),
    )  # fmt: skip
    clip_skip: int | None = _option(
        None, "the text encoder's layer to use, counted from the last (1); auto: as the model was trained",
        "Model", low=1, high=12,
    )  # fmt: skip

    resolution: int | None = _option(
        None, "side of the training pictures; auto: the size the checkpoint is made for", "Picture handling",
        unit="pixels", low=64, high=4096,
    )  # fmt: skip
    buckets: bool = _option(False, "keep each picture's shape instead of cropping it to a square", "Picture handling")
    flip: bool = _option(False, "mirror pictures half of the time", "Picture handling")
    masks: bool = _option(True, "transparency, or NAME.mask.png, says how much each pixel counts", "Picture handling")
    captions: str = _option(
        "auto",
        "where captions come from; auto: .txt files if there are any",
        "Picture handling",
        choices=("auto", "none", "txt", "file-name"),
    )
    template_file: Path | None = _option(
        None, f"own prompts to train in, one a line, with {NAME_SLOT} and {CAPTION_SLOT}", "Picture handling",
        metavar="FILE",
    )  # fmt: skip
    contrast_images: Path | None = _option(
        None, "for a word to avoid: folder of good pictures that should stay as they are", "Picture handling", metavar="DIR"
    )  # fmt: skip
    shuffle_tags: bool = _option(False, "shuffle a caption's tags at each use", "Picture handling")
    tag_dropout: float = _option(0.0, "share of tags left out at each use", "Picture handling", low=0, high=1)
    caption_dropout: float = _option(0.0, "share of uses without a caption", "Picture handling", low=0, high=1)

    learning_rate: str = _option(
        "auto", "0.005, or a list such as 0.005:100, 1e-3:1000 (rate:last step); auto: lower for longer trainings",
        "Learning", metavar="RATE",
    )  # fmt: skip
    learning_rate_2: str = _option(
        "auto",
        "for the second text encoder; auto: the same, if one is given",
        "Learning",
        metavar="RATE",
        families=("sdxl",),
    )
    train_encoders: str = _option(
        "both",
        "which text encoders learn the word; in the other it stays as it started",
        "Learning",
        choices=("both", "clip_l", "clip_g"),
        families=("sdxl",),
    )
    lr_schedule: str = _option(
        "auto", "how a single rate falls during training; auto: cosine", "Learning",
        choices=("auto", "constant", "linear", "cosine"),
    )  # fmt: skip
    warmup_steps: int = _option(0, "steps in which the rate rises from zero", "Learning", unit="steps", low=0, high=1e6)
    batch_size: int = _option(1, "pictures at a time", "Learning", unit="pictures", low=1, high=1024)
    gradient_accumulation: int = _option(
        1, "batches added up for one step, like a larger batch with less memory", "Learning",
        unit="batches", low=1, high=1024,
    )  # fmt: skip
    optimizer: str = _option(
        "adamw", "what turns gradients into steps", "Learning",
        choices=("adamw", "nadam", "radam"),
    )  # fmt: skip
    adam_beta1: float = _option(
        0.5, "the optimizer's momentum; more is smoother but finds the word less reliably", "Learning",
        low=0, high=0.999,
    )  # fmt: skip
    ema_decay: float | None = _option(
        None, "how long the vectors are averaged; 0: not at all; auto: over the last tenth of the steps", "Learning",
        low=0, high=0.9999,
    )  # fmt: skip
    timestep_sampling: str = _option(
        "auto", "how noisy the pictures to learn from are: all levels alike, or mostly half-way; auto: logit-normal for a "
        "subject and fewer than 200 pictures in all, else uniform", "Learning",
        choices=("auto", "uniform", "logit-normal"),
    )  # fmt: skip
    loss_type: str = _option(
        "mse", "mse, or huber, which helps if some pictures do not fit the others", "Learning",
        choices=("mse", "huber"),
    )  # fmt: skip
    huber_delta: float = _option(0.1, "errors above this count linearly", "Learning", low=1e-4, high=100)
    min_snr_gamma: float = _option(
        0.0, "weigh the least noisy pictures less (usual is 5); 0: all alike; helps if the word learns textures rather "
        "than shapes", "Learning", low=0, high=1000,
    )  # fmt: skip
    noise_offset: float = _option(
        0.0, "for very dark or very bright pictures (usual is 0.05); 0: none",
        "Learning", low=0, high=1,
    )  # fmt: skip
    weight_decay: float = _option(0.0, "how strongly the vectors are pulled toward zero", "Learning", low=0, high=10)
    clip: str = _option(
        "none", "limit the gradient's norm, or each of its values", "Learning", choices=("none", "norm", "value")
    )
    clip_at: float = _option(1.0, "the limit", "Learning", low=1e-12, high=1e12)
    seed: int = _option(0, "the same seed gives the same training", "Learning", low=0, high=2**63 - 1)

    device: str = _option("auto", "auto, cpu, or a card such as cuda:0", "Memory")
    precision: str = _option(
        "auto", "the frozen model's number format; auto: the best for the device", "Memory",
        choices=("auto", "fp32", "bf16", "fp16"),
    )  # fmt: skip
    acceleration: str = _option(
        "auto",
        "how steps are made faster, with the same result up to rounding; arranged: on a CPU, with a second copy of many "
        "weights in memory; graphs: on a card, with CUDA graphs; auto: whatever makes this machine faster",
        "Memory",
        choices=("auto", "none", "arranged", "graphs"),
    )
    memory: str = _option(
        "auto",
        "how memory is saved; balanced: about a third slower; low: the frozen model in 8 bits too, which changes the result "
        "a little; auto: the first that fits into the card's free memory, on a CPU fast",
        "Memory",
        choices=("auto", *MEMORY_MODES),
    )
    gradient_checkpointing: bool = _option(False, "the same as --memory balanced, at the least", "Memory")
    latent_cache_mb: int = _option(
        512, "memory for encoded pictures; the rest goes to disk", "Memory", unit="MB", low=0, high=1_000_000
    )

    preview_every: int = _option(100, "steps between previews; 0: none", "Previews", unit="steps", low=0, high=1e6)
    preview_prompt: tuple[str, ...] = _option(
        (),
        f"prompt of a preview, with {NAME_SLOT}, in the WebUIs' notation; give it again for more",
        "Previews",
        metavar="P",
    )
    test_prompt: tuple[str, ...] = _option(
        (), "prompt of a picture that tests the finished word; give it again for more; empty: none",
        "Previews", metavar="P",
    )  # fmt: skip
    preview_negative_prompt: str = _option("", "what previews should not show", "Previews")
    preview_seed: tuple[int, ...] = _option(
        (1,), "seed of a preview; give it again for more", "Previews", low=0, high=2**32 - 1, metavar="N"
    )
    preview_sampler: str = _option(
        "dpm++ 2m", "how previews are sampled", "Previews", choices=("dpm++ 2m", "euler", "euler a", "ddim")
    )
    preview_steps: int = _option(12, "sampling steps of a preview", "Previews", unit="steps", low=1, high=1000)
    preview_guidance: float = _option(7.0, "how strictly previews follow their prompt", "Previews", low=0, high=100)
    preview_width: int | None = _option(None, "auto: the resolution", "Previews", unit="pixels", low=64, high=4096)
    preview_height: int | None = _option(None, "auto: the resolution", "Previews", unit="pixels", low=64, high=4096)

    out: Path = _required("folder that the finished embedding goes to", "Saving", "DIR")
    runs_dir: Path = _option(Path("textual_inversion"), "folder that runs are kept in", "Saving", metavar="DIR")
    overwrite: bool = _option(False, "replace an existing embedding of that name", "Saving")
    snapshot_every: int = _option(
        100, "steps between saved copies of the vectors; 0: none", "Saving", unit="steps", low=0, high=1e6
    )

    @property
    def effective_batch_size(self) -> int:
        """Images per optimizer step."""
        return self.batch_size * self.gradient_accumulation

    @property
    def memory_modes(self) -> tuple[str, ...]:
        """The memory modes that these settings allow, the fastest first."""
        allowed = MEMORY_MODES[int(self.gradient_checkpointing) :]
        if self.memory == "auto":
            return allowed
        return (self.memory if self.memory in allowed else allowed[0],)

    def to_json(self) -> dict[str, Any]:
        return {f.name: to_json_value(getattr(self, f.name)) for f in dataclasses.fields(self)}


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in dataclasses.fields(TrainSettings)}
TYPES: dict[str, Any] = get_type_hints(TrainSettings)
REQUIRED = tuple(f.name for f in dataclasses.fields(TrainSettings) if f.default is dataclasses.MISSING)
DEFAULTS: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(TrainSettings) if f.name not in REQUIRED}
CHANGEABLE_ON_RESUME = frozenset(
    {"steps", "device", "memory", "gradient_checkpointing", "batch_size", "gradient_accumulation"}
)
"""May differ when a run is resumed: besides its length, they trade memory for time (and the low mode rounds weights)."""
