"""The concepts of the practice model that only its secret words describe: images to learn them from, and scores."""

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
from lib_ti.model.sampling import SamplingParams, sample
from lib_ti.practice.classifier import Prediction, SceneClassifier, classify, load_classifier
from lib_ti.practice.scenes import PRACTICE_WORLD
from lib_ti.practice.things import Scene
from lib_ti.practice.world import PLAIN, World
from lib_ti.randomness import derive_seed

PRACTICE_MODEL = Path(__file__).parent / "model" / "practice.safetensors"
CONCEPTS_DIR = Path(__file__).parent / "concepts"
IMAGES_PER_CONCEPT = 6
SAMPLING = SamplingParams("dpm++ 2m", 20, 5.0, 64, 64)

_TEMPLATES = {"subject": "a photo of a {}", "style": "a picture in the style of {}", "negative": "a photo, {}"}


def concept_scenes(concept: str, count: int, split: str, world: World = PRACTICE_WORLD) -> list[Scene]:
    """Scenes that show a concept and vary in all else. `split` names the set; no two sets share a scene."""
    rng = random.Random(derive_seed("concept", concept, split))
    colours = _balanced_choices([*world.colours], count, rng)
    grounds = _balanced_choices([*world.grounds], count, rng)
    scenes = [
        world.random_scene(rng, colour=c, ground=g, style=PLAIN, count=1) for c, g in zip(colours, grounds, strict=True)
    ]
    if concept in world.unnamed:
        return [replace(scene, thing=concept) for scene in scenes]
    return [replace(scene, thing=rng.choice([*world.named]), style=concept) for scene in scenes]


def _balanced_choices(values: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` random values, each used about equally often."""
    permutations = [rng.sample(values, len(values)) for _ in range(-(-count // len(values)))]
    return [value for permutation in permutations for value in permutation][:count]


def write_concept_images(folder: Path = CONCEPTS_DIR, world: World = PRACTICE_WORLD) -> None:
    """Write the images to learn the concepts from: `folder`/CONCEPT/N.png, 256 pixels wide."""
    for concept in world.kinds:
        (folder / concept).mkdir(parents=True, exist_ok=True)
        for i, scene in enumerate(concept_scenes(concept, IMAGES_PER_CONCEPT, "train", world)):
            world.render(scene, 256).save(folder / concept / f"{i + 1}.png", optimize=True)


@dataclass(frozen=True)
class Score:
    """How well a text or an embedding represents its concept.

    Attributes:
        loss: mean squared error on unseen images.
        recognised: fraction of samples of the plain prompt in which the classifier recognizes the concept.
        edits: of samples with another colour and ground in the prompt, the fraction with the right "concept", "colour" and
            "ground".
    """

    loss: float
    recognised: float
    edits: Mapping[str, float]


class Evaluator:
    """Scores embeddings of one concept, always on the same images, timesteps and noise, so that scores are comparable."""

    def __init__(
        self,
        model: StableDiffusion,
        concept: str,
        num_images: int = 48,
        timesteps_per_image: int = 4,
        world: World = PRACTICE_WORLD,
        classifier: SceneClassifier | None = None,
    ) -> None:
        """The loss is measured on `num_images` unseen images at `timesteps_per_image` stratified timesteps each.

        `classifier`: that of the `world`; it must be given for any but the practice model's.
        """
        self.model, self.concept, self.world = model, concept, world
        self._num_images, self._timesteps_per_image = num_images, timesteps_per_image
        self._classifier = classifier or load_classifier()

    @property
    def oracle(self) -> str:
        """The model's own word for the concept."""
        return self.world.secret_words[self.concept]

    def _prompt(self, text: str) -> str:
        return _TEMPLATES[self.world.kinds[self.concept]].format(text)

    @cached_property
    def _batches(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(latents, noise, timesteps) of each image."""
        generator = torch.Generator().manual_seed(derive_seed("bank", self.concept))
        count, train_timesteps = self._timesteps_per_image, self.model.noise_schedule.num_train_timesteps
        batches = []
        for scene in concept_scenes(self.concept, self._num_images, "examine", self.world):
            distribution = self._encode(self.world.render(scene, 64))
            shape = (count, *distribution.mean.shape)
            fractions = (torch.arange(count) + torch.rand(count, generator=generator)) / count
            latents = distribution.sample(torch.randn(shape, generator=generator))
            noise = torch.randn(shape, generator=generator)
            batches.append((latents, noise, (fractions * train_timesteps).long().clamp(max=train_timesteps - 1)))
        return batches

    def _encode(self, image: Image.Image) -> LatentDistribution:
        pixels = torch.tensor(list(image.tobytes()), dtype=torch.float32).view(image.height, image.width, 3)
        mean, std = self.model.encode_images((pixels / 127.5 - 1).permute(2, 0, 1).unsqueeze(0))
        return LatentDistribution(mean[0], std[0], None)

    @torch.no_grad()
    def loss(self, text: str, placeholder: Placeholder | None = None, vectors: torch.Tensor | None = None) -> float:
        """The mean squared error on unseen images with `text`, a plain word or the placeholder's name, in the prompt."""
        prompt = self.model.tokenizer.encode(self._prompt(text), [placeholder] if placeholder else [])
        embeddings = self.model.empty_vectors() if vectors is None else {"clip_l": vectors}
        context = self.model.encode_prompts([prompt], embeddings)
        total = 0.0
        for latents, noise, t in self._batches:
            predicted = self.model.predict(
                self.model.noise_schedule.add_noise(latents, noise, t), t, context.select([0] * len(t))
            )
            total += float((predicted - self.model.noise_schedule.target(latents, noise, t)).square().mean())
        return total / len(self._batches)

    def score(
        self,
        text: str,
        placeholder: Placeholder | None = None,
        vectors: torch.Tensor | None = None,
        num_samples: int = 10,
    ) -> Score:
        """All measures of `text`, a plain word or the placeholder's name; without samples the loss alone."""
        embeddings = self.model.empty_vectors() if vectors is None else {"clip_l": vectors}
        conditioner = Conditioner(self.model, [placeholder] if placeholder else [], embeddings)

        def classify_sample(prompt: str, seed: int) -> Prediction:
            image = sample(guide(conditioner, prompt, "", SAMPLING.steps), seed, SAMPLING)
            return classify([image], self._classifier)[0]

        recognised = [self._is_concept(classify_sample(self._prompt(text), seed)) for seed in range(num_samples)]
        is_thing = self.concept in self.world.unnamed
        edits = {"concept": 0.0, "colour": 0.0, "ground": 0.0}
        for i, scene in enumerate(concept_scenes(self.concept, num_samples, "edit", self.world)):
            subject = f"{scene.colour} {text if is_thing else scene.thing}"
            suffix = "" if is_thing else f", {text}"
            prediction = classify_sample(f"a photo of a {subject} {scene.ground}{suffix}", 100 + i)
            edits["concept"] += self._is_concept(prediction) / num_samples
            edits["colour"] += (prediction.colour == scene.colour) / num_samples
            edits["ground"] += (prediction.ground == scene.ground) / num_samples
        return Score(self.loss(text, placeholder, vectors), sum(recognised) / max(1, num_samples), edits)

    def _is_concept(self, prediction: Prediction) -> bool:
        return self.concept in (prediction.thing, prediction.style)
