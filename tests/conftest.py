"""What the tests share: a small checkpoint, a folder of pictures, and no network."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from PIL import Image, ImageDraw
from reference.checkpoints import SIZES, write_checkpoint

os.environ["HF_HUB_OFFLINE"] = "1"  # in time: nothing imported above imports huggingface_hub, which reads it then
os.environ["OMP_NUM_THREADS"] = "1"  # for child processes; on networks this small, threads mostly wait for each other
torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, for pictures of 64 pixels; its .yaml lies beside it."""
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors", SIZES["small"])


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four pictures of a disc, in different colours, places and shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    looks = [
        ((80, 80), "navy", "gold"),
        ((96, 80), "white", "teal"),
        ((80, 88), "gray", "red"),
        ((84, 84), "tan", "black"),
    ]
    for number, (size, ground, colour) in enumerate(looks):
        picture = Image.new("RGB", size, ground)
        near, far = 8 * number + 8, 8 * number + 44
        ImageDraw.Draw(picture).ellipse((near, near, far, far), colour)
        picture.save(folder / f"{number}.png")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a browser comes last: it takes the longest."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
