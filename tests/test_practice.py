"""The practice model and its classifier, which the demo, the benchmarks and the golden losses rely on."""

import random

import pytest
import torch

from lib_ti.embedding.read import read_embedding
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import guide
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.sampling import sample
from lib_ti.practice import classifier
from lib_ti.practice.concepts import (
    CONCEPTS_DIR,
    IMAGES_PER_CONCEPT,
    PRACTICE_MODEL,
    SAMPLING,
    Evaluator,
    concept_scenes,
)
from lib_ti.practice.export import ldm_checkpoint
from lib_ti.practice.scenes import PRACTICE_WORLD
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.settings.parsing import parse
from lib_ti.training.preflight.preflight import preflight


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return StableDiffusion.load(open_checkpoint(PRACTICE_MODEL), torch.float32, torch.device("cpu"))


def train(folder, **options: str) -> tuple[list[float], torch.Tensor]:
    """The losses and vectors of a training on the coin."""
    settings, problems = parse({
        "model": str(PRACTICE_MODEL), "images": str(CONCEPTS_DIR / "coin"), "name": "my-coin", "out": str(folder / "out"),
        "runs_dir": str(folder / "runs"), "preview_every": "0", "precision": "fp32", "lr_schedule": "constant",
        "learning_rate": "0.005", "vectors": "2", "adam_beta1": "0.9", "timestep_sampling": "uniform", "ema_decay": "0",
        **options,
    })  # fmt: skip
    run = create_run(preflight(settings, problems))
    execute_run(run)
    return [e.data["loss"] for e in run.history().steps.values()], read_embedding(run.embedding).vectors["clip_l"]


GOLDEN_LOSSES = [0.182325, 0.055163, 0.073101, 0.31686, 0.195605, 0.157624, 0.15138, 0.085609, 0.052223, 0.115393]


@pytest.mark.smoke
@pytest.mark.parametrize("batching", [{"batch_size": "4"}, {"batch_size": "2", "gradient_accumulation": "2"}])
def test_golden_losses(tmp_path, batching):
    """They change only when the computation changes, which must be on purpose."""
    losses, _ = train(tmp_path, steps="10", **batching)
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_practice_model_is_small_enough_to_ship():
    assert PRACTICE_MODEL.stat().st_size < 32_000_000


def test_every_concept_has_its_images():
    for concept in PRACTICE_WORLD.kinds:
        assert len(list((CONCEPTS_DIR / concept).glob("*.png"))) == IMAGES_PER_CONCEPT


def test_training_images_are_not_in_the_other_splits():
    rendered = {
        split: {PRACTICE_WORLD.render(scene).tobytes() for scene in concept_scenes("coin", 8, split)}
        for split in ("train", "examine", "edit")
    }
    assert not rendered["train"] & rendered["examine"]
    assert not rendered["train"] & rendered["edit"]


def test_captions_never_contain_the_names_of_concepts():
    rng = random.Random(0)
    words = {
        word.strip(",")
        for _ in range(3000)
        for word in PRACTICE_WORLD.caption(PRACTICE_WORLD.random_scene(rng), rng).split()
    }
    assert not words & {*PRACTICE_WORLD.kinds, "plain"}


def test_classifier_recognizes_rendered_scenes():
    rng = random.Random(2**40)
    scenes = [PRACTICE_WORLD.random_scene(rng, style="plain") for _ in range(200)]
    predictions = classifier.classify([PRACTICE_WORLD.render(scene) for scene in scenes])
    for attribute in PRACTICE_WORLD.classes:
        correct = sum(getattr(p, attribute) == getattr(s, attribute) for p, s in zip(predictions, scenes, strict=True))
        assert correct >= 190, attribute


def test_model_follows_ordinary_captions(model):
    """The classifier recognizes thing, colour and ground of the caption."""
    rng = random.Random(7)
    scenes = [
        PRACTICE_WORLD.random_scene(rng, style="plain", thing=thing)
        for thing in ("star", "mug", "mushroom", "car", "coin", "robot")
    ]
    conditioner = Conditioner(model, [], model.empty_vectors())
    correct = {"thing": 0, "colour": 0, "ground": 0}
    for seed, scene in enumerate(scenes):
        noun = {"coin": "dax", "robot": "blick"}.get(scene.thing, scene.thing)
        prompt = f"a photo of a {scene.colour} {noun} {scene.ground}"
        (prediction,) = classifier.classify([sample(guide(conditioner, prompt, "", SAMPLING.steps), seed, SAMPLING)])
        for attribute in correct:
            correct[attribute] += getattr(prediction, attribute) == getattr(scene, attribute)
    assert all(count >= 5 for count in correct.values()), correct


def test_short_training_learns_a_concept(model, tmp_path):
    """A hundred steps close most of the gap between "object" and the model's own word."""
    _, vectors = train(tmp_path, steps="100", batch_size="4")
    evaluator = Evaluator(model, "coin", num_images=16)
    initial, oracle = evaluator.loss("object"), evaluator.loss(evaluator.oracle)
    learned = evaluator.loss("my-coin", Placeholder("my-coin", 0, len(vectors)), vectors)
    assert oracle < initial
    assert (initial - learned) / (initial - oracle) > 0.5


def test_export_inverts_loading(model):
    """Writing the loaded networks in the LDM layout gives the stored tensors again."""
    from safetensors.torch import load, load_file

    from lib_ti.model.checkpoint import yaml_config

    sizes = yaml_config.read_config(PRACTICE_MODEL.with_suffix(".yaml"))
    written = load(
        ldm_checkpoint(model.unet, model.vae, model.prompt_encoder.encoders["clip_l"].model, sizes, torch.float16)
    )
    stored = load_file(PRACTICE_MODEL)
    assert written.keys() - stored.keys() <= {"cond_stage_model.transformer.text_model.embeddings.position_ids"}
    assert all(torch.equal(stored[name], written[name]) for name in stored)


def test_measurements_of_quality_can_be_started():
    import importlib

    for name in ("fidelity", "finishing", "second_world.make"):
        importlib.import_module(f"benchmarks.{name}")
