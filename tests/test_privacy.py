"""A person is taught with permission; outputs hold nothing of the computer or the camera; copies go when they are told to."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from reference.trainings import run, settings_for

from lib_ti.cli import main
from lib_ti.errors import BadInput, RunBusy
from lib_ti.runs.picture_copies import delete_picture_copies
from lib_ti.settings.person import person_word
from lib_ti.training.preflight.preflight import preflight

SECRETS = ("Jo Secret", "GPSMARK", "my diary", "MYUSER")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"init_text": "young woman"}, "woman"),
        ({"init_text": "auto", "name": "my-brother"}, "brother"),
        ({"init_text": "Face,"}, "face"),
        ({"init_text": "mug", "name": "my-mug"}, None),
        ({"init_text": "mannequin", "name": "batman-womanizer"}, None),
        ({"init_text": "woman", "kind": "style"}, None),
        ({"init_text": "hand", "kind": "negative"}, None),
    ],
)
def test_who_is_a_person(tmp_path, tiny_checkpoint, pictures, options, word):
    settings = dataclasses.replace(settings_for(tiny_checkpoint, pictures, tmp_path), **options)
    assert person_word(settings) == word


def test_a_person_is_asked(tmp_path, tiny_checkpoint, pictures):
    settings = dataclasses.replace(settings_for(tiny_checkpoint, pictures, tmp_path), init_text="woman")
    with pytest.raises(BadInput) as refused:
        preflight(settings)
    ((option, message),) = [(problem.option, problem.message) for problem in refused.value.problems]
    assert option == "consent"
    assert "woman" in message
    assert "--consent" in message
    folder = run(dataclasses.replace(settings, consent=True, steps=1))
    assert folder.settings.consent
    assert '"consent": true' in (folder.path / "settings.json").read_text(encoding="utf-8")


@pytest.fixture
def secret_run(tmp_path, tiny_checkpoint, pictures):
    """A run of pictures, a checkpoint and folders that carry secrets in their metadata and names."""
    source = tmp_path / "Jo Secret" / "pictures"
    source.mkdir(parents=True)
    for number, path in enumerate(sorted(pictures.glob("*.png"))):
        with Image.open(path) as image:
            if number % 2:
                note = PngInfo()
                note.add_text("Comment", "GPSMARK my diary")
                note.add_itxt("XML:com.adobe.xmp", "GPSMARK")
                image.save(source / f"{number}.png", pnginfo=note)
            else:
                exif = Image.Exif()
                exif[0x010E] = exif[0x013B] = "GPSMARK MYUSER"
                exif.get_ifd(0x8825)[29] = "GPSMARK"
                image.save(source / f"{number}.jpg", exif=exif, comment=b"GPSMARK")
    settings = settings_for(tiny_checkpoint, source, tmp_path / "Jo Secret")
    return run(dataclasses.replace(settings, steps=2, preview_every=1, snapshot_every=1, preview_steps=1))


def test_outputs_tell_nothing(secret_run):
    folder = secret_run
    out = folder.settings.out
    folders = [out, folder.images, *(folder.path / name for name in ("previews", "snapshots", "tests"))]
    outputs = [folder.embedding, folder.report, *(path for parent in folders for path in parent.rglob("*"))]
    outputs = [path for path in outputs if path.is_file()]
    assert {".safetensors", ".png", ".html"} <= {path.suffix for path in outputs}
    user = Path.home().name
    for path in outputs:
        content = path.read_bytes()
        for secret in (*SECRETS, str(folder.path.parents[3]), *([f"/{user}/"] if len(user) > 2 else [])):
            assert secret.encode() not in content, path
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert not image.getexif()
                assert image.info.keys() <= {"parameters"}


def test_copies_are_deleted_on_request(secret_run):
    folder = secret_run
    before = folder.report.read_text(encoding="utf-8")
    folder.latent_cache.write_bytes(b"pixels")
    embedding = folder.embedding.read_bytes()
    assert main(["forget", str(folder.path)]) == 0
    assert not folder.images.exists()
    assert not folder.latent_cache.exists()
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".deleted")]
    assert folder.embedding.read_bytes() == embedding
    assert len(folder.report.read_text(encoding="utf-8")) < len(before)
    assert main(["forget", str(folder.path)]) == 0  # nothing is left to delete
    assert main(["forget", str(folder.path.parent)]) == 2


def test_copies_of_a_running_training_stay(secret_run):
    lock = secret_run.lock
    lock.acquire()
    with pytest.raises(RunBusy):
        delete_picture_copies(secret_run)
    lock.release()
    assert secret_run.images.is_dir()
