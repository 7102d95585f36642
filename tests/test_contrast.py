"""Negative embeddings that are learned from good images too."""

import shutil

import pytest
import torch
from reference.trainings import run, settings_for

from lib_ti.cli import main
from lib_ti.embedding.read import read_embedding
from lib_ti.errors import BadInput
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.settings.parsing import parse
from lib_ti.training.dataloader import Batch
from lib_ti.training.optimization.contrast import GUIDANCE, ContrastBatch, contrast_losses
from lib_ti.training.preflight.preflight import preflight


@pytest.fixture
def good(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "good")
    return tmp_path / "good"


def vectors_of(folder) -> torch.Tensor:
    return read_embedding(folder.embedding).vectors["clip_l"]


def test_good_images_change_what_is_learned_and_runs_resume_exactly(tiny_checkpoint, pictures, good, tmp_path):
    def settings(name: str, **more: str):
        return settings_for(tiny_checkpoint, pictures, tmp_path, name=name, kind="negative", steps="8", **more)

    plain = run(settings("plain"))
    whole = run(settings("whole", contrast_images=str(good)))
    assert len(list(whole.contrast_images.glob("*.png"))) == 4
    assert not torch.equal(vectors_of(plain), vectors_of(whole))
    folder, seen = create_run(preflight(settings("parts", contrast_images=str(good)))), []
    assert not execute_run(
        folder, on_event=seen.append, should_stop=lambda: bool(seen) and seen[-1].data.get("step") == 3
    )
    shutil.rmtree(good)  # the run has its own copies
    assert execute_run(folder)
    assert torch.equal(vectors_of(folder), vectors_of(whole))


def test_gradient_leads_guidance_toward_the_good_image(tiny_checkpoint):
    """A step along the negative gradient lowers the error of the guided prediction."""
    model = StableDiffusion.load(open_checkpoint(tiny_checkpoint), torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    vectors = torch.nn.Parameter(0.02 * torch.randn(2, 64, generator=generator))
    from lib_ti.model.prompt.placeholder import Placeholder

    prompt = model.tokenizer.encode("a photo, bad-word", [Placeholder("bad-word", 0, 2)])
    batch = ContrastBatch(Batch(latents, noise, torch.tensor([300, 600]), (prompt, prompt), None, torch.zeros(2, 6)))
    before = contrast_losses(model, batch, {"clip_l": vectors}).sum()
    before.backward()
    moved = vectors.detach() - 1e-3 * vectors.grad / vectors.grad.norm()
    assert contrast_losses(model, batch, {"clip_l": moved}).sum() < before
    assert GUIDANCE > 1


def test_good_images_are_for_what_to_avoid(tiny_checkpoint, pictures, good, tmp_path, capsys):
    given = {"images": "p", "name": "n", "model": "m", "out": "o"}
    _, problems = parse({**given, "contrast_images": str(good)})
    assert [problem.option for problem in problems] == ["contrast_images"]
    (good / "0.png").write_bytes(b"no image")
    for path in good.glob("[123].png"):
        path.unlink()
    settings = settings_for(tiny_checkpoint, pictures, tmp_path, kind="negative", contrast_images=str(good))
    with pytest.raises(BadInput, match=r"no picture in .*good"):
        preflight(settings)
    assert main(["train", "--contrast-images", str(good), "--kind", "negative"]) == 2
    assert "--contrast-images" in capsys.readouterr().err
