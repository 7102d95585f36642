"""Captions for all pictures: from the host's models, and edited together."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image
from test_queue import FakeHost, until

from lib_ti.errors import BadInput, TextualInversionError
from lib_ti.webui.hosts import captioners
from lib_ti.webui.images.captioning import Captioning
from lib_ti.webui.images.drafts import Drafts
from lib_ti.webui.images.thumbnails import ThumbnailCache
from lib_ti.webui.images.uploads import UploadRegistry

DRAFT = "0" * 32


@pytest.fixture
def host(tmp_path):
    return FakeHost(tmp_path)


@pytest.fixture
def drafts(host, pictures):
    drafts = Drafts(host.runs_dir, ThumbnailCache(), UploadRegistry())
    drafts.add_folder(DRAFT, pictures)
    drafts.set_caption(DRAFT, "0001", "a gold disc")
    return drafts


@pytest.fixture
def captioning(host, drafts):
    captioning = Captioning(host, drafts)
    yield captioning
    captioning.close()


def wait(captioning):
    until(lambda: captioning.captioning()["state"] != "running")
    return captioning.captioning()


def test_pictures_without_a_caption_are_described(captioning, drafts, host):
    assert captioning.write_captions(DRAFT, "blip")["total"] == 3
    assert wait(captioning) == {"state": "done", "done": 3, "total": 3, "message": ""}
    captions = drafts.captions(DRAFT, "txt")
    assert captions["0001"] == "a gold disc"
    assert captions["0000"] == "a picture of 80 pixels"
    assert not host.lock.locked()
    with pytest.raises(TextualInversionError, match="has a caption already"):
        captioning.write_captions(DRAFT, "blip")
    captioning.write_captions(DRAFT, "blip", replace=True)
    wait(captioning)
    assert drafts.captions(DRAFT, "txt")["0001"] == "a picture of 96 pixels"
    drafts.undo(DRAFT)
    assert drafts.captions(DRAFT, "txt")["0001"] == "a gold disc"


def test_it_waits_for_the_host_and_can_be_cancelled(captioning, drafts, host):
    with host.lock:
        assert captioning.write_captions(DRAFT, "blip")["message"] == "Waiting for the WebUI"
        captioning.cancel_captions()
        assert wait(captioning)["done"] == 0
    assert not drafts.captions(DRAFT, "txt")["0000"]


def test_a_failure_is_told(captioning, host):
    host.fails.add("blip")
    captioning.write_captions(DRAFT, "blip")
    status = wait(captioning)
    assert status["state"] == "failed"
    assert "RuntimeError: blip has no weights" in status["message"]
    assert not host.lock.locked()


@pytest.mark.parametrize(("draft", "captioner"), [(DRAFT, "deepbooru"), (DRAFT, "blipx"), ("1" * 32, "blip")])
def test_what_cannot_be_described(captioning, draft, captioner):
    with pytest.raises(BadInput):
        captioning.write_captions(draft, captioner)


def test_captions_are_edited_together(captioning, drafts):
    assert captioning.edit_captions(DRAFT, find="gold", replace="brass") == {"changed": 1}
    assert drafts.captions(DRAFT, "txt")["0001"] == "a brass disc"
    assert captioning.edit_captions(DRAFT, prefix="a photo, ", suffix=" on a table") == {"changed": 4}
    assert drafts.captions(DRAFT, "txt")["0001"] == "a photo, a brass disc on a table"
    drafts.undo(DRAFT)
    assert drafts.captions(DRAFT, "txt")["0001"] == "a brass disc"
    assert captioning.edit_captions(DRAFT) == {"changed": 0}


def test_captions_cannot_grow_without_end(captioning, drafts):
    for edit in ({"find": "d", "replace": "d" * 10**6}, {"prefix": "x" * 2001}):
        with pytest.raises(BadInput, match="are the most"):
            captioning.edit_captions(DRAFT, **edit)
    assert drafts.captions(DRAFT, "txt")["0001"] == "a gold disc"


@pytest.fixture
def web(monkeypatch):
    """The modules of a host, as A1111 and Forge have them."""
    log = []
    interrogator = SimpleNamespace(
        load=lambda: log.append("load"), generate_caption=lambda image: f"a disc, {image.width}",
        unload=lambda: log.append("unload"),
    )  # fmt: skip
    booru = SimpleNamespace(
        start=lambda: log.append("start"), stop=lambda: log.append("stop"),
        tag_multi=lambda image, force_disable_ranks: r"disc, coin \(gold\)",
    )  # fmt: skip
    for name, content in {"shared": {"interrogator": interrogator}, "deepbooru": {"model": booru}}.items():
        module = ModuleType(f"modules.{name}")
        vars(module).update(content)
        module.__spec__ = SimpleNamespace(name=module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "modules", ModuleType("modules"))
    return log


def test_the_hosts_models(web):
    assert captioners.available() == {"deepbooru": "In tags (DeepBooru)"}, "this host lacks the other"
    image = Image.new("RGB", (8, 8))
    with captioners.opened("blip") as describe:
        assert describe(image) == "a disc, 8"
    with captioners.opened("deepbooru") as describe:
        assert describe(image) == "disc, coin (gold)"
    assert web == ["load", "unload", "start", "stop"]
