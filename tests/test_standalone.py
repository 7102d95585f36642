"""The standalone host: txt2img with the embeddings in its folder, and its page."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from lib_ti.cli import main
from lib_ti.embedding.combine import combine
from lib_ti.embedding.value import Embedding
from lib_ti.errors import BadInput, UnusableFile
from lib_ti.formats.safetensors_tensors import safetensors_bytes
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.webui.embedding_index import EmbeddingIndex
from lib_ti.webui.standalone.checkpoints import PRACTICE_MODEL, find_checkpoints
from lib_ti.webui.standalone.host import StandaloneHost
from lib_ti.webui.standalone.txt2img import Txt2Img, Txt2ImgRequest

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"steps": 2, "width": 64, "height": 64, "seed": 3}


def write_embedding(host, name, scale, width=64):
    host.embeddings_dir.mkdir(exist_ok=True)
    vectors = scale * torch.linspace(-1, 1, width).repeat(2, 1)  # not constant: layer norm subtracts the mean
    (host.embeddings_dir / f"{name}.safetensors").write_bytes(safetensors_bytes({"emb_params": vectors}, {}))


@pytest.fixture
def host(tmp_path, tiny_checkpoint):
    return StandaloneHost(tmp_path, tiny_checkpoint)


@pytest.fixture
def txt2img(host):
    return Txt2Img(host, EmbeddingIndex(host))


def image_bytes(txt2img, prompt, **settings):
    (image,) = txt2img.generate(Txt2ImgRequest(prompt, **{**SMALL, **settings})).images
    return image.tobytes()


class TestTxt2Img:
    @pytest.mark.smoke
    def test_new_and_replaced_embeddings_apply_at_once(self, host, txt2img):
        without = image_bytes(txt2img, "a photo of my-word")
        write_embedding(host, "my-word", 0.5)
        first = image_bytes(txt2img, "a photo of my-word")
        write_embedding(host, "my-word", -0.5)
        second = image_bytes(txt2img, "a photo of my-word")
        assert len({without, first, second}) == 3
        assert image_bytes(txt2img, "a photo of my-word") == second
        write_embedding(host, "unrelated", 1)
        assert image_bytes(txt2img, "a photo of my-word") == second
        assert image_bytes(txt2img, "a photo of (my-word:1.4)") != second

    def test_misfit_and_damaged_embeddings_are_ignored(self, host, txt2img):
        without = image_bytes(txt2img, "a photo of my-word")
        write_embedding(host, "my-word", 0.5, width=768)
        assert image_bytes(txt2img, "a photo of my-word") == without
        (host.embeddings_dir / "my-word.safetensors").write_bytes(b"damaged")
        assert image_bytes(txt2img, "a photo of my-word") == without

    def test_infotexts_hold_the_generation_parameters(self, txt2img):
        result = txt2img.generate(Txt2ImgRequest("a cat", "a dog", count=2, **SMALL))
        assert len(result.images) == 2
        assert result.images[0].tobytes() != result.images[1].tobytes()
        assert result.infotexts[1].startswith("a cat\nNegative prompt: a dog\nSteps: 2, ")
        assert "Seed: 4, Size: 64x64, Model: tiny" in result.infotexts[1]

    def test_embeddings_apply_in_every_chunk_subprompt_and_schedule(self, host, txt2img):
        write_embedding(host, "my-word", 0.5)
        for prompt in ("cat " * 90 + "{}", "a cat AND a {}", "a [cat:my-{}:0]"):
            assert image_bytes(txt2img, prompt.format("my-word")) != image_bytes(txt2img, prompt.format("mug"))
        with_embedding = image_bytes(txt2img, "a cat", negative_prompt="cat " * 90 + "my-word")
        assert with_embedding != image_bytes(txt2img, "a cat", negative_prompt="cat " * 90)

    def test_interrupt_keeps_finished_images(self, host, txt2img):
        fractions = []

        def interrupt_half_way(fraction):
            fractions.append(fraction)
            if fraction >= 0.5:
                txt2img.interrupt()

        result = txt2img.generate(Txt2ImgRequest("a cat", count=2, **SMALL), interrupt_half_way)
        assert len(result.images) == len(result.infotexts) == 1
        assert result.note == "Interrupted after 1 of 2 pictures."
        assert fractions == sorted(fractions)
        assert host.lock.acquire(blocking=False)

    def test_generation_waits_for_a_training_and_can_be_interrupted(self, host, txt2img):
        results = []
        assert host.lock.acquire()
        with host.gpu_lent("my-word") as interrupted:
            assert host.is_gpu_lent
            request = Txt2ImgRequest("a cat", **SMALL)
            waiting = threading.Thread(target=lambda: results.append(txt2img.generate(request)))
            waiting.start()
            while not txt2img.is_busy:
                time.sleep(0.01)
            txt2img.interrupt()
            waiting.join(10)
            assert not interrupted(), "the generation was interrupted, not the training"
            txt2img.interrupt()
            assert interrupted()
        host.lock.release()
        assert (results[0].images, results[0].note) == ([], "Interrupted while waiting for the training to end.")
        assert not host.is_gpu_lent

    def test_model_is_restored_after_a_failed_training(self, host, txt2img):
        before = image_bytes(txt2img, "a cat")
        with pytest.raises(ZeroDivisionError), host.gpu_lent("my-word"):
            raise ZeroDivisionError
        assert image_bytes(txt2img, "a cat") == before

    def test_unusable_checkpoint_raises_and_releases_the_lock(self, tmp_path):
        (tmp_path / "not.safetensors").write_bytes(b"?" * 30)
        host = StandaloneHost(tmp_path, tmp_path / "not.safetensors")
        assert host.resolution() == 512
        with pytest.raises(UnusableFile):
            Txt2Img(host, EmbeddingIndex(host)).generate(Txt2ImgRequest("a cat", **SMALL))
        assert host.lock.acquire(blocking=False)


class TestCheckpoints:
    def test_default_is_the_practice_model(self, tmp_path):
        host = StandaloneHost(tmp_path)
        assert host.selected_checkpoint().path == PRACTICE_MODEL
        assert host.resolution() == 64

    def test_folder_lists_files_and_diffusers_folders(self, tmp_path):
        for name in ("b.safetensors", "sub/a.ckpt", "whole/model_index.json", "whole/unet/model.safetensors", "x.txt"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        host = StandaloneHost(tmp_path, tmp_path)
        assert [choice.title for choice in host.checkpoints] == ["b.safetensors", "sub/a.ckpt", "whole"]
        host.select("whole")
        assert host.selected_checkpoint().path == tmp_path / "whole"
        with pytest.raises(BadInput):
            host.select("../b.safetensors")

    def test_no_checkpoint_raises(self, tmp_path):
        for path in (tmp_path, tmp_path / "gone"):
            with pytest.raises(BadInput):
                find_checkpoints(path)


def test_combine_stacks_embeddings_in_one_table():
    embeddings = [Embedding(name, {"clip_l": torch.full((n, 4), float(n))}) for name, n in (("a", 2), ("b", 3))]
    placeholders, vectors = combine(embeddings, {"clip_l": 4}, torch.device("cpu"))
    assert placeholders == [Placeholder("a", 0, 2), Placeholder("b", 2, 3)]
    assert vectors["clip_l"][:, 0].tolist() == [2, 2, 3, 3, 3]
    assert combine([], {"clip_l": 4}, torch.device("cpu"))[1]["clip_l"].shape == (0, 4)


@pytest.fixture
def service(host):
    """The training service of a host, with a private image in one of its runs."""
    pytest.importorskip("gradio")
    from lib_ti.webui.service import TrainingService

    image = host.runs_dir / "my-word" / "2026-01-01T00-00-00" / "images" / "0000.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"private")
    service = TrainingService(host)
    yield service
    service.close()


def client(host, service, **more):
    from lib_ti.webui.standalone import page
    from lib_ti.webui.standalone.server import create_app

    return TestClient(create_app(service, page.build(host, service), **more), base_url="http://localhost")


@pytest.mark.smoke
class TestPage:
    def test_page_loads_our_files_and_nothing_from_the_network(self, host, service):
        with client(host, service) as browser:
            html = browser.get("/").text
            scripts = re.findall(r'<script src="(tinv-static/[^"]+)"></script>', html)
            expected = sorted(path.name for path in (ROOT / "javascript").glob("*.js"))
            assert [re.split(r"[/?]", script)[1] for script in scripts] == expected
            assert html.index(scripts[0]) < html.index("</head>")
            for address in scripts:
                assert browser.get(f"/{address}").status_code == 200
            assert not re.findall(r"<(?:script|link)[^>]+https?://[^>]+>", html)
            for other in ("standalone.py", "..%2Frun.py", "%2e%2e/run.py"):
                assert browser.get(f"/tinv-static/{other}").status_code == 404

    def test_element_ids(self, host, service):
        with client(host, service) as browser:
            ids = {c["props"].get("elem_id") for c in browser.get("/config").json()["components"]}
        fields = ("prompt", "neg_prompt", "generate", "interrupt", "gallery", "steps", "cfg_scale", "width", "height",
                  "seed", "batch_size", "tinv_picker", "tinv_strength", "tinv_insert", "tinv_insert_negative",
                  "tinv_refresh")  # fmt: skip
        assert {"tab_txt2img", "tab_textual_inversion", "setting_sd_model_checkpoint"} <= ids
        assert {f"txt2img_{field}" for field in fields} <= ids

    def test_page_lists_embeddings(self, host, service):
        write_embedding(host, "my-word", 1)
        with client(host, service) as browser:
            reply = browser.post("/run/tinv", json={"data": [json.dumps({"do": "embeddings"})]})
        (entry,) = json.loads(reply.json()["data"][0])["embeddings"]
        assert (entry["name"], entry["fits"]) == ("my-word", True)

    def test_run_files_are_not_served(self, host, service, monkeypatch):
        (image,) = host.runs_dir.glob("*/*/images/0000.png")
        monkeypatch.chdir(host.runs_dir.parent)
        (host.runs_dir.parent / "beside.txt").write_text("private")
        with client(host, service) as browser:
            for path in (image, image.relative_to(Path.cwd()), Path.cwd() / "beside.txt"):
                for prefix in ("/file=", "/file/"):
                    assert browser.get(f"{prefix}{path}").status_code in (403, 404)

    def test_password_is_required_everywhere(self, host, service):
        with client(host, service, auth=("me", "secret")) as browser:
            request = {"json": {"data": [json.dumps({"do": "embeddings"})]}}
            assert browser.post("/run/tinv", **request).status_code == 401
            assert browser.get("/config").status_code == 401
            assert "txt2img_prompt" not in browser.get("/").text
            assert browser.post("/login", data={"username": "me", "password": "guess"}).status_code == 400
            assert browser.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
            assert browser.post("/run/tinv", **request).status_code == 200

    def test_rest_calls(self, host, service):
        with client(host, service) as browser:
            assert browser.get("/tinv/v1/runs").json()["runs"] == []
            assert browser.post("/tinv/v1/runs", json={}).status_code == 422
            assert browser.delete("/tinv/v1/runs/my-mug/2000-01-01T00-00-00").status_code == 415
        with client(host, service, auth=("me", "secret")) as browser:
            assert browser.get("/tinv/v1/runs").status_code == 401
            browser.post("/login", data={"username": "me", "password": "secret"})
            assert browser.get("/tinv/v1/runs").status_code == 200

    def test_cross_site_requests_are_refused(self, host, service):
        request = {"json": {"data": [json.dumps({"do": "embeddings"})]}}
        with client(host, service) as browser:
            assert browser.post("/run/tinv", headers={"Sec-Fetch-Site": "cross-site"}, **request).status_code == 403
            assert browser.post("/run/tinv", headers={"Sec-Fetch-Site": "same-origin"}, **request).status_code == 200
            link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
            assert browser.get("/", headers=link).status_code == 200


def test_parse_fields_checks_ranges():
    pytest.importorskip("gradio")
    from lib_ti.webui.standalone.page import parse_fields

    request = parse_fields("a", "b", 20, 7, 64, 128, -1, 2)
    assert (request.steps, request.guidance, request.width, request.height, request.count) == (20, 7.0, 64, 128, 2)
    assert 0 <= request.seed < 2**32
    for index, value in ((2, 0), (2, None), (3, 101), (4, 63), (4, 100), (5, 5000), (6, -2), (7, 0)):
        fields = ["a", "b", 20, 7, 64, 128, 1, 2]
        fields[index] = value
        with pytest.raises(BadInput):
            parse_fields(*fields)


class TestUiCommand:
    def test_port_in_use(self, tmp_path, capsys):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            assert main(["ui", "--no-browser", "--port", str(port), "--data-dir", str(tmp_path)]) == 2
        assert capsys.readouterr().err == (
            f"--port: port {port} is in use, perhaps by another such page; choose another with --port\n"
        )

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--port", "http"],
            ["--port", "70000"],
            ["--auth", "me"],
            ["--data-dir", "gone"],
            ["--model", "gone"],
            ["--dance"],
        ],
    )
    def test_bad_arguments(self, tmp_path, monkeypatch, capsys, arguments):
        monkeypatch.chdir(tmp_path)
        assert main(["ui", "--no-browser", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []

    def test_gradio_missing(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert main(["ui", "--no-browser", "--data-dir", str(tmp_path)]) == 2
        assert capsys.readouterr().err == 'the page needs gradio: pip install "gradio>=3.41.2,<5"\n'

    @pytest.mark.smoke
    @pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_serves_until_signalled(self, tmp_path, tiny_checkpoint, sent):
        command = [sys.executable, "-m", "lib_ti", "ui", "--no-browser", "--port", "0", "--data-dir", str(tmp_path)]
        child = subprocess.Popen(
            [*command, "--model", str(tiny_checkpoint)], stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "no_proxy": "*"},
        )  # fmt: skip
        assert child.stdout is not None
        address = re.search(r"http://\S+", child.stdout.readline())
        assert address
        with urllib.request.urlopen(address[0], timeout=30) as reply:
            assert b"tinv_picker.js" in reply.read()
        child.send_signal(sent)
        assert child.wait(20) == 0
        assert "is saved" in child.stdout.read()
