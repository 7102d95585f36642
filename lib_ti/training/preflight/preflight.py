"""Everything that can be wrong with a request, found before any weight is read and anything is written.

`preflight` turns settings into a `Plan`: what "auto" became, and what is to be trained on. All problems are raised together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lib_ti.data import image_files, images
from lib_ti.data.captions import default_templates, load_templates
from lib_ti.data.image_files import MAX_IMAGES, ImageFile
from lib_ti.embedding.compatibility import check_init_embedding
from lib_ti.embedding.read import SECOND_FILE_NOTE, read_for_encoders
from lib_ti.embedding.value import Embedding
from lib_ti.errors import BadInput, Problem, UnusableFile
from lib_ti.model.checkpoint.checkpoint import Checkpoint
from lib_ti.model.checkpoint.open import open_checkpoint, with_vae
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.model.speed.device import choose_acceleration, choose_device, choose_precision
from lib_ti.settings.train_settings import CAPTION_SLOT, NAME_SLOT, TrainSettings
from lib_ti.training.preflight.output_paths import space_needed, too_full, unfit
from lib_ti.training.preflight.resolve_auto import suited


@dataclass(frozen=True)
class Plan:
    """A training that can be carried out. Nothing in its settings is "auto" any more that the machine decides."""

    settings: TrainSettings
    templates: Sequence[str]
    initial: Embedding | None
    warnings: Sequence[str]


def preflight(settings: TrainSettings, found: Sequence[Problem] = ()) -> Plan:
    """Check a request against files, folders and devices. `found`: problems already known; their options are passed over.

    Raises BadInput with all problems.
    """
    return _Preflight(settings, list(found)).plan()


class _Preflight:
    def __init__(self, settings: TrainSettings, problems: list[Problem]) -> None:
        self.settings = settings
        self.problems = problems
        self.warnings: list[str] = []

    def plan(self) -> Plan:
        checkpoint = self._checkpoint()
        files, sizes = self._pictures()
        captions = self._caption_source(files)
        templates = self._templates([file.caption(captions) for file in files], checkpoint)
        initial = self._initial(checkpoint)
        self._places()
        changes: dict[str, object] = {"captions": captions}
        if checkpoint:
            found = suited(self.settings, checkpoint)
            changes |= found.changes | self._machine(checkpoint)
            self.problems += found.problems
            self.warnings += found.warnings
            resolution = self.settings.resolution or checkpoint.resolution
            self._disk(sizes, resolution)
        else:
            self._machine(None)
        if self.problems or checkpoint is None:
            raise BadInput(self.problems)
        return Plan(replace(self.settings, **changes), templates, initial, self.warnings)  # type: ignore[arg-type]

    def _faulty(self, *options: str) -> bool:
        return any(problem.option in options for problem in self.problems)

    def _report(self, option: str, reason: object) -> None:
        self.problems.append(Problem(option, str(reason)))

    def _checkpoint(self) -> Checkpoint | None:
        if self._faulty("model"):
            return None
        try:
            checkpoint = open_checkpoint(self.settings.model).require_full_vocabulary()
        except UnusableFile as error:
            self._report("model", error)
            return None
        if self.settings.vae and not self._faulty("vae"):
            try:
                checkpoint = with_vae(checkpoint, self.settings.vae)
            except UnusableFile as error:
                self._report("vae", error)
        elif checkpoint.vae is None and not self._faulty("vae"):
            self._report("vae", f"{self.settings.model.name} has no VAE of its own; name a VAE file for it")
        s = self.settings
        return checkpoint.with_overrides(s.prediction, s.zero_terminal_snr, s.clip_skip)

    def _pictures(self) -> tuple[list[ImageFile], list[tuple[int, int]]]:
        folder = self.settings.images
        if self._faulty("images"):
            return [], []
        if not folder.is_dir():
            self._report("images", f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}")
            return [], []
        usable, sizes, reasons = [], [], []
        for file in image_files.find_images(folder):
            try:
                sizes.append(images.decoded_size(file.path))
                if file.mask and self.settings.masks:
                    images.decoded_size(file.mask)
            except UnusableFile as error:
                reasons.append(str(error))
            else:
                usable.append(file)
        if not usable:
            why = f": {reasons[0]}" if reasons else ""
            self._report("images", f"there is no picture in {folder} that can be used{why}")
        elif len(usable) > MAX_IMAGES:
            self._report("images", f"{len(usable)} pictures are too many; {MAX_IMAGES} is the most")
        else:
            self.warnings += [f"picture skipped: {reason}" for reason in reasons]
        return usable, sizes[: len(usable)]

    def _caption_source(self, files: Sequence[ImageFile]) -> str:
        if self.settings.captions != "auto":
            return self.settings.captions
        return "txt" if any(file.caption_file for file in files) else "none"

    def _templates(self, captions: Sequence[str], checkpoint: Checkpoint | None) -> Sequence[str]:
        """The templates that leave room for the vectors; complains of those that do not, and of words left out."""
        s = self.settings
        if self._faulty("template_file"):
            return ()
        try:
            templates = load_templates(s.template_file) if s.template_file else default_templates(s.kind, any(captions))
        except UnusableFile as error:
            self._report("template_file", error)
            return ()
        if self._faulty("name"):
            return ()
        tokenizer = PromptTokenizer(checkpoint.prompt_length if checkpoint else 77)
        word = Placeholder(s.name, 0, s.vectors)
        own = tokenizer.token_ids(s.name)
        if not own:
            self._report("name", "the name has no letters or digits that a prompt could hold")
            return ()
        if len(own) == 1:
            self.warnings.append(
                f"{s.name!r} is an ordinary word of the vocabulary: wherever prompts use it, they will mean the embedding"
            )
        starts_elsewhere = s.init_random or s.init_embedding or self._faulty("init_text", "init_embedding")
        if not starts_elsewhere and not tokenizer.token_ids(s.init_text):
            self._report("init_text", f"{s.init_text!r} holds no word")
        lengths = {t: len(tokenizer.token_ids(t.replace(NAME_SLOT, " ").replace(CAPTION_SLOT, " "))) for t in templates}
        fitting = [t for t in templates if lengths[t] + s.vectors <= tokenizer.max_tokens]
        if not fitting:
            room = tokenizer.max_tokens - min(lengths.values())
            self._report("vectors", f"{s.vectors} vectors do not fit; the shortest template leaves room for {room}")
        elif len(fitting) < len(templates):
            self.warnings.append(
                f"{len(templates) - len(fitting)} templates leave no room for {s.vectors} vectors and are not used"
            )
        self._warn_of_words(tokenizer, word, fitting, captions)
        return fitting

    def _warn_of_words(
        self, tokenizer: PromptTokenizer, word: Placeholder, templates: Sequence[str], captions: Sequence[str]
    ) -> None:
        """The word must be in every prompt, or nothing is learned there: where it is not, it is put in front."""
        mentioned = [tokenizer.mentions(caption, word) for caption in captions if caption]
        if any(NAME_SLOT not in t for t in templates) and not (
            captions and len(mentioned) == len(captions) and all(mentioned)
        ):
            self.warnings.append(f"there are templates without {NAME_SLOT}; the word is put in front of their prompts")
        if mentioned and not all(mentioned):
            self.warnings.append(
                f"{mentioned.count(False)} captions do not mention {word.name!r}; a template adds it to them"
            )
        room = tokenizer.max_tokens - word.num_vectors
        if any(len(tokenizer.token_ids(caption)) > room for caption in captions):
            self.warnings.append("there are captions longer than a prompt; their ends are left out")

    def _initial(self, checkpoint: Checkpoint | None) -> Embedding | None:
        path = self.settings.init_embedding
        if path is None or self._faulty("init_embedding"):
            return None
        try:
            embedding, half = read_for_encoders(path, len(checkpoint.widths_by_encoder) if checkpoint else 1)
        except UnusableFile as error:
            self._report("init_embedding", error)
            return None
        holds = self._faulty("init_text") or bool(PromptTokenizer().token_ids(self.settings.init_text))
        problem, warnings = check_init_embedding(embedding, self.settings, checkpoint, holds)
        self.problems += [problem] if problem else []
        self.warnings += warnings
        if half:
            self.warnings.append(f"{path.name} is taken together with {half.name}, {SECOND_FILE_NOTE}")
        if embedding.has_zero_vectors:
            self.warnings.append(f"{embedding.name!r} has vectors of nothing but zeros, which no training leaves")
        return embedding

    def _machine(self, checkpoint: Checkpoint | None) -> dict[str, object]:
        """What is left to the machine."""
        s, parameters, option = self.settings, checkpoint.unet_parameters if checkpoint else 0, "device"
        if self._faulty(option):
            return {}
        try:
            device = choose_device(s.device)
            option = "precision"
            precision = choose_precision(s.precision, device, parameters)
            option = "acceleration"
            acceleration = choose_acceleration(s.acceleration, device, precision, parameters)
        except ValueError as error:
            self._report(option, error)
            return {}
        return {"precision": precision, "acceleration": acceleration}

    def _places(self) -> None:
        problems, warnings = unfit(self.settings, {problem.option for problem in self.problems})
        self.problems += problems
        self.warnings += warnings

    def _disk(self, sizes: Sequence[tuple[int, int]], resolution: int) -> None:
        needed = space_needed(self.settings, sizes, resolution)
        self.problems += too_full(self.settings, needed, {problem.option for problem in self.problems})
