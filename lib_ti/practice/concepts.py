"""What the practice model can draw and no public word says: the pictures to learn it from, and how well it was learned."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from lib_ti.data.latent_cache import LatentDistribution
from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import guide
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.sampling import Sampling, sample
from lib_ti.practice.judge import Verdict, judge
from lib_ti.practice.judge import load as load_judge
from lib_ti.practice.pictures import COLOURS, GROUNDS, NAMED, SECRETS, UNNAMED, Scene, draw, random_scene
from lib_ti.randomness import derive_seed

MODEL = Path(__file__).parent / "model" / "practice.safetensors"
FOLDER = Path(__file__).parent / "concepts"
PICTURES = 6
KINDS = {**dict.fromkeys(UNNAMED, "subject"), "duotone": "style", "damaged": "negative"}
"""The concepts, and the kind of word each wants."""


def scenes(concept: str, count: int, purpose: str) -> list[Scene]:
    """Scenes of a concept that differ in all else. `purpose` names the set: no two sets share a picture."""
    rng = random.Random(derive_seed("concept", concept, purpose))
    colours, grounds = _shuffled([*COLOURS], count, rng), _shuffled([*GROUNDS], count, rng)
    made = [random_scene(rng, colour=c, ground=g, style="plain") for c, g in zip(colours, grounds, strict=True)]
    if concept in UNNAMED:
        return [replace(scene, thing=concept) for scene in made]
    return [replace(scene, thing=rng.choice([*NAMED]), style=concept) for scene in made]


def _shuffled(values: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` values, all used equally often."""
    rounds = [rng.sample(values, len(values)) for _ in range(-(-count // len(values)))]
    return [value for dealt in rounds for value in dealt][:count]


def write_pictures(folder: Path = FOLDER) -> None:
    """The pictures that ship with the package: `folder`/CONCEPT/N.png, 256 pixels wide."""
    for concept in KINDS:
        (folder / concept).mkdir(parents=True, exist_ok=True)
        for i, scene in enumerate(scenes(concept, PICTURES, "train")):
            draw(scene, 256).save(folder / concept / f"{i + 1}.png", optimize=True)


@dataclass(frozen=True)
class Score:
    """How well a word stands for its concept. Shares are of 1.

    `loss`: on pictures it was not trained on; `recognised`: samples that show it; `edits`: of samples asked for in
    another colour and on another ground, the share right in each of the three.
    """

    loss: float
    recognised: float
    edits: Mapping[str, float]


class Examiner:
    """Scores words for one concept: always the same pictures, times and noise, so that scores can be compared."""

    def __init__(self, model: StableDiffusion, concept: str, pictures: int = 48, times: int = 4) -> None:
        """The loss is measured on `pictures` unseen pictures at `times` stratified times each."""
        self.model, self.concept = model, concept
        self._pictures, self._times = pictures, times

    @property
    def _article(self) -> str:
        return {"subject": "a photo of a {}", "style": "a picture in the style of {}", "negative": "a photo, {}"}[
            KINDS[self.concept]
        ]

    @cached_property
    def _bank(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(latents, noise, t), each of them for `times` places of one picture."""
        generator = torch.Generator().manual_seed(derive_seed("bank", self.concept))
        bank, steps = [], self.model.noise.steps
        for scene in scenes(self.concept, self._pictures, "examine"):
            encoded = self._encode(draw(scene, 64))
            shape = (self._times, *encoded.mean.shape)
            strata = (torch.arange(self._times) + torch.rand(self._times, generator=generator)) / self._times
            latents = encoded.mean + encoded.std * torch.randn(shape, generator=generator)
            bank.append(
                (latents, torch.randn(shape, generator=generator), (strata * steps).long().clamp(max=steps - 1))
            )
        return bank

    def _encode(self, picture: Image.Image) -> LatentDistribution:
        array = torch.tensor(list(picture.tobytes()), dtype=torch.float32).view(picture.height, picture.width, 3)
        mean, deviation = self.model.encode_pictures((array / 127.5 - 1).permute(2, 0, 1).unsqueeze(0))
        return LatentDistribution(mean[0], deviation[0], None)

    @torch.no_grad()
    def loss(self, text: str, word: Placeholder | None = None, vectors: torch.Tensor | None = None) -> float:
        """The mean squared error on unseen pictures, called by `text` (a plain word, or a learned one's name)."""
        prompt = self.model.tokenizer.encode(self._article.format(text), [word] if word else [])
        table = self.model.no_vectors() if vectors is None else {"clip_l": vectors}
        context = self.model.encode_prompts([prompt], table)
        total = 0.0
        for latents, noise, t in self._bank:
            predicted = self.model.predict(self.model.noise.add(latents, noise, t), t, context.select([0] * len(t)))
            total += float((predicted - self.model.noise.target(latents, noise, t)).square().mean())
        return total / len(self._bank)

    def score(
        self, text: str, word: Placeholder | None = None, vectors: torch.Tensor | None = None, samples: int = 10
    ) -> Score:
        """All three measures of a word."""
        table = self.model.no_vectors() if vectors is None else {"clip_l": vectors}
        referee = load_judge()

        conditioner = Conditioner(self.model, [word] if word else [], table)

        def verdict(prompt: str, seed: int) -> Verdict:
            image = sample(guide(conditioner, prompt, "", SAMPLING.steps), seed, SAMPLING)
            return judge([image], referee)[0]

        plain = [verdict(self._article.format(text), seed) for seed in range(samples)]
        right = self._right
        edits = {"concept": 0.0, "colour": 0.0, "ground": 0.0}
        asked = scenes(self.concept, samples, "edit")
        for seed, scene in enumerate(asked):
            subject = f"{scene.colour} {text if self.concept in UNNAMED else scene.thing}"
            ending = "" if self.concept in UNNAMED else f", {text}"
            found = verdict(f"a photo of a {subject} {scene.ground}{ending}", 100 + seed)
            edits["concept"] += right(found) / samples
            edits["colour"] += (found.colour == scene.colour) / samples
            edits["ground"] += (found.ground == scene.ground) / samples
        return Score(self.loss(text, word, vectors), sum(map(right, plain)) / samples, edits)

    def _right(self, verdict: Verdict) -> bool:
        return self.concept in (verdict.thing, verdict.style)

    @property
    def oracle(self) -> str:
        """The word that the model itself has for the concept."""
        return SECRETS[self.concept]


SAMPLING = Sampling("dpm++ 2m", 20, 5.0, 64, 64)
