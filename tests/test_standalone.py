"""The standalone host: pictures with the words in its folder, and its page."""

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
from lib_ti.webui.standalone.host import PRACTICE, Standalone, Wanted, checkpoints

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"steps": 2, "width": 64, "height": 64, "seed": 3}


def write_word(host, name, fill, width=64):
    host.embeddings.mkdir(exist_ok=True)
    vectors = torch.full((2, width), float(fill))
    (host.embeddings / f"{name}.safetensors").write_bytes(safetensors_bytes({"emb_params": vectors}, {}))


@pytest.fixture
def host(tmp_path, tiny_checkpoint):
    return Standalone(tmp_path, tiny_checkpoint)


def picture(host, prompt, **more):
    (image,) = host.generate(Wanted(prompt, **{**SMALL, **more})).images
    return image.tobytes()


class TestGenerate:
    @pytest.mark.smoke
    def test_a_new_word_works_at_once_and_so_does_its_next_version(self, host):
        without = picture(host, "a photo of my-word")
        write_word(host, "my-word", 0.5)
        first = picture(host, "a photo of my-word")
        write_word(host, "my-word", -0.5)
        second = picture(host, "a photo of my-word")
        assert len({without, first, second}) == 3
        assert picture(host, "a photo of my-word") == second
        write_word(host, "unrelated", 1)
        assert picture(host, "a photo of my-word") == second
        assert picture(host, "a photo of (my-word:1.4)") != second

    def test_words_that_do_not_fit_or_cannot_be_read_are_left_to_the_vocabulary(self, host):
        without = picture(host, "a photo of my-word")
        write_word(host, "my-word", 0.5, width=768)
        assert picture(host, "a photo of my-word") == without
        (host.embeddings / "my-word.safetensors").write_bytes(b"damaged")
        assert picture(host, "a photo of my-word") == without

    def test_pictures_say_what_made_them(self, host, tiny_checkpoint):
        made = host.generate(Wanted("a cat", "a dog", count=2, **SMALL))
        assert len(made.images) == 2
        assert made.images[0].tobytes() != made.images[1].tobytes()
        assert made.infotexts[1].startswith("a cat\nNegative prompt: a dog\nSteps: 2, ")
        assert "Seed: 4, Size: 64x64, Model: tiny" in made.infotexts[1]

    def test_words_count_wherever_they_stand_and_whenever_they_come(self, host):
        write_word(host, "my-word", 0.5)
        for prompt in ("cat " * 90 + "{}", "a cat AND a {}", "a [cat:my-{}:0]"):
            assert picture(host, prompt.format("my-word")) != picture(host, prompt.format("mug"))
        assert picture(host, "a cat", negative="cat " * 90 + "my-word") != picture(host, "a cat", negative="cat " * 90)

    def test_interrupting_keeps_what_is_done(self, host):
        steps = []

        def progress(share):
            steps.append(share)
            if share >= 0.5:
                host.interrupt()

        made = host.generate(Wanted("a cat", count=2, **SMALL), progress)
        assert len(made.images) == len(made.infotexts) == 1
        assert made.note == "Interrupted after 1 of 2 pictures."
        assert steps == sorted(steps)
        assert host.lock.acquire(blocking=False)

    def test_it_waits_for_a_training_and_can_give_up(self, host):
        made = []
        assert host.lock.acquire()
        with host.lent("my-word") as interrupted:
            assert host.is_lent
            waiting = threading.Thread(target=lambda: made.append(host.generate(Wanted("a cat", **SMALL))))
            waiting.start()
            while not host._generating:
                time.sleep(0.01)
            host.interrupt()
            waiting.join(10)
            assert not interrupted(), "it was not the training that was meant"
            host.interrupt()
            assert interrupted()
        host.lock.release()
        assert (made[0].images, made[0].note) == ([], "Interrupted while waiting for the training to end.")
        assert not host.is_lent

    def test_the_model_comes_back_whatever_happens(self, host):
        before = picture(host, "a cat")
        with pytest.raises(ZeroDivisionError), host.lent("my-word"):
            raise ZeroDivisionError
        assert picture(host, "a cat") == before

    def test_a_checkpoint_that_cannot_be_used(self, tmp_path):
        (tmp_path / "not.safetensors").write_bytes(b"?" * 30)
        host = Standalone(tmp_path, tmp_path / "not.safetensors")
        assert host.side() == 512
        with pytest.raises(UnusableFile):
            host.generate(Wanted("a cat", **SMALL))
        assert host.lock.acquire(blocking=False)


class TestCheckpoints:
    def test_the_practice_model_is_there(self, tmp_path):
        host = Standalone(tmp_path)
        assert host.selected().path == PRACTICE
        assert host.side() == 64

    def test_a_folder_to_choose_from(self, tmp_path):
        for name in ("b.safetensors", "sub/a.ckpt", "whole/model_index.json", "whole/unet/model.safetensors", "x.txt"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        host = Standalone(tmp_path, tmp_path)
        assert [choice.title for choice in host.choices] == ["b.safetensors", "sub/a.ckpt", "whole"]
        host.choose("whole")
        assert host.selected().path == tmp_path / "whole"
        with pytest.raises(BadInput):
            host.choose("../b.safetensors")

    def test_none(self, tmp_path):
        for path in (tmp_path, tmp_path / "gone"):
            with pytest.raises(BadInput):
                checkpoints(path)


def test_several_words_in_one_table():
    embeddings = [Embedding(name, {"clip_l": torch.full((n, 4), float(n))}) for name, n in (("a", 2), ("b", 3))]
    words, vectors = combine(embeddings, {"clip_l": 4}, torch.device("cpu"))
    assert words == [Placeholder("a", 0, 2), Placeholder("b", 2, 3)]
    assert vectors["clip_l"][:, 0].tolist() == [2, 2, 3, 3, 3]
    assert combine([], {"clip_l": 4}, torch.device("cpu"))[1]["clip_l"].shape == (0, 4)


@pytest.fixture
def trained(host, monkeypatch):
    """The trainer of a host, with a picture in its runs that nobody is to fetch by its address."""
    pytest.importorskip("gradio")
    from lib_ti.webui import service

    picture = host.runs / "my-word" / "2026-01-01T00-00-00" / "images" / "0000.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"private")
    monkeypatch.setattr(service, "_current", None)
    started = service.start(host)
    yield started
    started.close()


def client(host, trained, **more):
    from lib_ti.webui.standalone import page

    return TestClient(page.serve(trained, page.build(host, trained), **more))


@pytest.mark.smoke
class TestPage:
    def test_our_files_are_in_it_and_nothing_from_elsewhere(self, host, trained):
        with client(host, trained) as browser:
            html = browser.get("/").text
            scripts = re.findall(r'<script src="(tinv-static/[^"]+)"></script>', html)
            wanted = sorted(path.name for path in (ROOT / "javascript").glob("*.js"))
            assert [re.split(r"[/?]", script)[1] for script in scripts] == wanted
            assert html.index(scripts[0]) < html.index("</head>")
            for address in scripts:
                assert browser.get(f"/{address}").status_code == 200
            assert not re.findall(r"<(?:script|link)[^>]+https?://[^>]+>", html)
            for other in ("standalone.py", "..%2Frun.py", "%2e%2e/run.py"):
                assert browser.get(f"/tinv-static/{other}").status_code == 404

    def test_ids(self, host, trained):
        with client(host, trained) as browser:
            ids = {c["props"].get("elem_id") for c in browser.get("/config").json()["components"]}
        fields = ("prompt", "neg_prompt", "generate", "interrupt", "gallery", "steps", "cfg_scale", "width", "height",
                  "seed", "batch_size", "tinv_picker", "tinv_strength", "tinv_insert", "tinv_insert_negative",
                  "tinv_refresh")  # fmt: skip
        assert {"tab_txt2img", "tab_textual_inversion", "setting_sd_model_checkpoint"} <= ids
        assert {f"txt2img_{field}" for field in fields} <= ids

    def test_the_page_asks_for_embeddings(self, host, trained):
        write_word(host, "my-word", 1)
        with client(host, trained) as browser:
            reply = browser.post("/run/tinv", json={"data": [json.dumps({"do": "embeddings"})]})
        (found,) = json.loads(reply.json()["data"][0])["embeddings"]
        assert (found["name"], found["fits"]) == ("my-word", True)

    def test_files_of_runs_are_not_served(self, host, trained, monkeypatch):
        (picture,) = host.runs.glob("*/*/images/0000.png")
        monkeypatch.chdir(host.runs.parent)
        (host.runs.parent / "beside.txt").write_text("private")
        with client(host, trained) as browser:
            for path in (picture, picture.relative_to(Path.cwd()), Path.cwd() / "beside.txt"):
                for prefix in ("/file=", "/file/"):
                    assert browser.get(f"{prefix}{path}").status_code in (403, 404)

    def test_a_password_guards_everything(self, host, trained):
        with client(host, trained, auth=("me", "secret")) as browser:
            ask = {"json": {"data": [json.dumps({"do": "embeddings"})]}}
            assert browser.post("/run/tinv", **ask).status_code == 401
            assert browser.get("/config").status_code == 401
            assert "txt2img_prompt" not in browser.get("/").text
            assert browser.post("/login", data={"username": "me", "password": "guess"}).status_code == 400
            assert browser.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
            assert browser.post("/run/tinv", **ask).status_code == 200

    def test_pages_of_other_sites_get_nothing(self, host, trained):
        ask = {"json": {"data": [json.dumps({"do": "embeddings"})]}}
        with client(host, trained) as browser:
            assert browser.post("/run/tinv", headers={"Sec-Fetch-Site": "cross-site"}, **ask).status_code == 403
            assert browser.post("/run/tinv", headers={"Sec-Fetch-Site": "same-origin"}, **ask).status_code == 200
            link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
            assert browser.get("/", headers=link).status_code == 200


def test_what_the_fields_ask_for():
    pytest.importorskip("gradio")
    from lib_ti.webui.standalone.page import _wanted

    wanted = _wanted("a", "b", 20, 7, 64, 128, -1, 2)
    assert (wanted.steps, wanted.guidance, wanted.width, wanted.height, wanted.count) == (20, 7.0, 64, 128, 2)
    assert 0 <= wanted.seed < 2**32
    for place, value in ((2, 0), (2, None), (3, 101), (4, 63), (4, 100), (5, 5000), (6, -2), (7, 0)):
        given = ["a", "b", 20, 7, 64, 128, 1, 2]
        given[place] = value
        with pytest.raises(BadInput):
            _wanted(*given)


class TestCommand:
    def test_a_port_that_is_taken(self, tmp_path, capsys):
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
    def test_bad_requests(self, tmp_path, monkeypatch, capsys, arguments):
        monkeypatch.chdir(tmp_path)
        assert main(["ui", "--no-browser", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []

    def test_without_gradio(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert main(["ui", "--no-browser", "--data-dir", str(tmp_path)]) == 2
        assert capsys.readouterr().err == 'the page needs gradio: pip install "gradio>=3.41.2,<5"\n'

    @pytest.mark.smoke
    @pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_it_opens_and_ends(self, tmp_path, tiny_checkpoint, sent):
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
