"""The practice model and its judge: what the demo, the benchmarks and the golden losses stand on."""

import random

import pytest
import torch

from lib_ti.embedding import write
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.conditioning import Conditioner
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import guide
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.model.sampling import sample
from lib_ti.practice import judge
from lib_ti.practice.concepts import FOLDER, KINDS, MODEL, PICTURES, SAMPLING, Examiner, scenes
from lib_ti.practice.export import original_layout
from lib_ti.practice.pictures import STYLES, UNNAMED, caption, draw, random_scene
from lib_ti.runs.execute import create, execute
from lib_ti.settings.train_settings import parse
from lib_ti.training.preflight.preflight import preflight


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return StableDiffusion.load(open_checkpoint(MODEL), torch.float32, torch.device("cpu"))


def train(folder, **options: str) -> tuple[list[float], torch.Tensor]:
    """The losses and vectors of a training on the coin."""
    settings, problems = parse({
        "model": str(MODEL), "images": str(FOLDER / "coin"), "name": "my-coin", "out": str(folder / "out"),
        "runs_dir": str(folder / "runs"), "preview_every": "0", "precision": "fp32", "lr_schedule": "constant", **options,
    })  # fmt: skip
    run = create(preflight(settings, problems))
    execute(run)
    return [e.data["loss"] for e in run.timeline().steps.values()], write.read(run.embedding).vectors["clip_l"]


GOLDEN = [0.182325, 0.055163, 0.073101, 0.31686, 0.195605, 0.157624, 0.15138, 0.085609, 0.052223, 0.115393]


@pytest.mark.smoke
@pytest.mark.parametrize("cut", [{"batch_size": "4"}, {"batch_size": "2", "gradient_accumulation": "2"}])
def test_golden_losses(tmp_path, cut):
    """They change only when what is computed changes, and then on purpose."""
    losses, _ = train(tmp_path, steps="10", **cut)
    assert losses == pytest.approx(GOLDEN, rel=1e-3)


def test_it_is_small_enough_to_come_along():
    assert MODEL.stat().st_size < 32_000_000


def test_every_concept_has_its_pictures():
    for concept in KINDS:
        assert len(list((FOLDER / concept).glob("*.png"))) == PICTURES


def test_no_set_of_scenes_shares_a_picture_with_another():
    drawn = {
        purpose: {draw(s).tobytes() for s in scenes("coin", 8, purpose)} for purpose in ("train", "examine", "edit")
    }
    assert not drawn["train"] & drawn["examine"]
    assert not drawn["train"] & drawn["edit"]


def test_captions_never_say_what_has_no_name():
    rng = random.Random(0)
    words = {word.strip(",") for _ in range(3000) for word in caption(random_scene(rng), rng).split()}
    assert not words & {*UNNAMED, *STYLES}


def test_the_judge_knows_the_drawings():
    rng = random.Random(2**40)
    made = [random_scene(rng, style="plain") for _ in range(200)]
    verdicts = judge.judge([draw(scene) for scene in made])
    for question in judge.QUESTIONS:
        right = sum(getattr(v, question) == getattr(s, question) for v, s in zip(verdicts, made, strict=True))
        assert right >= 190, question


def test_the_model_draws_what_it_is_asked_for(model):
    """Ordinary captions, judged: thing, colour and ground each."""
    rng = random.Random(7)
    asked = [
        random_scene(rng, style="plain", thing=thing) for thing in ("star", "mug", "mushroom", "car", "coin", "robot")
    ]
    conditioner = Conditioner(model, [], model.no_vectors())
    right = {"thing": 0, "colour": 0, "ground": 0}
    for seed, scene in enumerate(asked):
        noun = {"coin": "dax", "robot": "blick"}.get(scene.thing, scene.thing)
        prompt = f"a photo of a {scene.colour} {noun} {scene.ground}"
        (verdict,) = judge.judge([sample(guide(conditioner, prompt, "", SAMPLING.steps), seed, SAMPLING)])
        for question in right:
            right[question] += getattr(verdict, question) == getattr(scene, question)
    assert all(count >= 5 for count in right.values()), right


def test_a_short_training_learns_a_word(model, tmp_path):
    """A hundred steps close most of the gap between "object" and the model's own word."""
    _, vectors = train(tmp_path, steps="100", batch_size="4")
    examiner = Examiner(model, "coin", pictures=16)
    start, own = examiner.loss("object"), examiner.loss(examiner.oracle)
    learned = examiner.loss("my-coin", Placeholder("my-coin", 0, len(vectors)), vectors)
    assert own < start
    assert (start - learned) / (start - own) > 0.5


def test_export_is_the_way_back(model):
    """What was loaded from the original layout is written to it again without a difference."""
    from safetensors.torch import load, load_file

    from lib_ti.model.checkpoint import yaml_config

    sizes = yaml_config.read(MODEL.with_suffix(".yaml"))
    written = load(original_layout(model.unet, model.vae, model.text.encoders["clip_l"].model, sizes, torch.float16))
    stored = load_file(MODEL)
    assert written.keys() - stored.keys() <= {"cond_stage_model.transformer.text_model.embeddings.position_ids"}
    assert all(torch.equal(stored[name], written[name]) for name in stored)
