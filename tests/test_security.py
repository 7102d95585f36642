"""What guards the pages: names and origins in a WebUI, passwords, hidden folders, uploads, and the decoder."""

import asyncio
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from test_images import png_header

from lib_ti.errors import TextualInversionError, UnusableFile
from lib_ti.webui.images import decoder as decoder_module
from lib_ti.webui.images.decoder import Decoder
from lib_ti.webui.images.uploads import UploadRegistry
from lib_ti.webui.security import exchange, redaction, throttle
from lib_ti.webui.security.basic_auth import basic_auth
from lib_ti.webui.security.request_check import AllowedHosts, HostNames, refusal
from lib_ti.webui.security.route_guard import install
from lib_ti.webui.security.throttle import Throttle
from lib_ti.webui.security.upload_watch import watch_upload


def scope(host, method="POST", path="/run/tinv", server=("127.0.0.1", 7860), **headers):
    fields = [(b"host", host.encode())] + [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": fields, "server": server}


def answered(names, host, **more) -> bool:
    return refusal(scope(host, **more), names) is None


class TestInAWebUI:
    """Whoever reaches a WebUI today still does, except pages of others."""

    @pytest.mark.parametrize(
        ("host", "headers"),
        [
            ("127.0.0.1:7860", {"origin": "http://127.0.0.1:7860"}),
            ("192.168.1.5:7860", {"origin": "http://192.168.1.5:7860"}),
            ("[fd00::5]:7860", {"origin": "http://[fd00::5]:7860"}),
            ("gpubox:7860", {"origin": "http://gpubox:7860"}),
            ("gpubox.local:7860", {"origin": "http://gpubox.local:7860"}),
            ("gpubox.lan", {"origin": "http://gpubox.lan"}),
            (
                "abcdef.gradio.live",
                {"origin": "https://abcdef.gradio.live"},
            ),  # a share link, a tunnel, a proxy with TLS
            ("abc.ngrok-free.app", {"origin": "https://abc.ngrok-free.app", "sec_fetch_site": "same-origin"}),
            ("paint.example.org", {"origin": "https://paint.example.org", "x_forwarded_proto": "https"}),
            ("127.0.0.1:7860", {"origin": "https://paint.example.org", "x_forwarded_host": "paint.example.org"}),
            ("127.0.0.1:7860", {"origin": "http://paint.example.org", "x_forwarded_host": "paint.example.org, proxy"}),
            ("localhost:7860", {"sec_fetch_site": "same-origin"}),
            ("localhost:7860", {}),
        ],
    )
    def test_owners_are_let_in(self, host, headers):
        for method in ("GET", "POST"):
            assert answered(HostNames(), host, method=method, **headers)

    @pytest.mark.parametrize(
        ("host", "headers"),
        [
            ("gpubox:7860", {"origin": "http://evil.example"}),
            ("127.0.0.1:7860", {"origin": "http://localhost:7860"}),
            ("localhost:7860", {"origin": "http://localhost:3000"}),
            ("localhost:7860", {"origin": "null"}),
            ("localhost:7860", {"sec_fetch_site": "same-site"}),
            ("localhost:7860", {"sec_fetch_site": "cross-site"}),
            ("rebound.evil.example:7860", {"origin": "http://rebound.evil.example:7860"}),
            ("rebound.evil.example:7860", {}),
            ("rebound.evil.example:7860", {"x_forwarded_host": "localhost", "x_forwarded_proto": "https"}),
            ("rebound.evil.example:7860", {"origin": "https://evil.example"}),
            ("127.0.0.1:7860", {"origin": "http://evil.example", "x_forwarded_host": "paint.example.org"}),
        ],
    )
    def test_others_are_not(self, host, headers):
        for method in ("GET", "POST"):
            assert not answered(HostNames(), host, method=method, **headers)

    def test_the_webuis_own_settings_count(self):
        rebound = {"origin": "http://paint.example.org:7860"}
        assert answered(HostNames(extra={"paint.example.org"}), "paint.example.org:7860", **rebound)
        assert answered(HostNames(has_login=True), "paint.example.org:7860", **rebound)
        assert not answered(HostNames(has_login=True), "paint.example.org:7860", origin="http://evil.example")
        cors = HostNames(origins={"https://app.example"}, origin_pattern=r"https://.*\.trusted\.example")
        assert answered(cors, "localhost:7860", origin="https://app.example", sec_fetch_site="cross-site")
        assert answered(cors, "localhost:7860", origin="https://a.trusted.example", sec_fetch_site="cross-site")
        assert not answered(cors, "localhost:7860", origin="https://a.trusted.example.evil.example")
        assert not answered(cors, "localhost:7860", sec_fetch_site="cross-site")

    def test_settings_are_read_from_the_host(self, monkeypatch):
        from lib_ti.webui.hosts import access, host_options

        flags = SimpleNamespace(
            server_name="box.example", api_auth="u:p", cors_allow_origins="https://a.example,https://b.example"
        )
        shared = SimpleNamespace(
            cmd_opts=flags, opts=SimpleNamespace(tinv_names="one.example, https://two.example:8443/ui"),
            demo=SimpleNamespace(auth=None, share_url="https://x.gradio.live"),
        )  # fmt: skip
        monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(shared=shared))
        monkeypatch.setitem(sys.modules, "modules.shared", shared)
        assert host_options.NAMES.key == "tinv_names"
        names = access.names(is_rest=False)
        assert {"box.example", "one.example", "two.example", "x.gradio.live"} <= set(names.extra)
        assert names.origins == {"https://a.example", "https://b.example"}
        assert not names.has_login
        assert access.names(is_rest=True).has_login

    def test_only_our_routes_are_guarded(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
        app, uploads = FastAPI(), UploadRegistry()

        @app.post("/sub/run/tinv")
        async def call() -> dict:
            exchange.current().status = 409
            return {}

        @app.post("/tinv/v1/runs")
        @app.post("/run/predict")
        async def other() -> dict:
            return {"checked": exchange.current() is not None}

        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "mug.png").touch()

        @app.post("/upload")
        async def upload() -> list:
            return [str(tmp_path / "a" / "mug.png"), "/etc/passwd"]

        with TestClient(app, base_url="http://localhost") as client:
            client.post("/upload")  # the application is running already
            install(app, lambda is_rest: HostNames(), uploads)
            foreign = {"Origin": "http://evil.example"}
            assert client.post("/run/predict", headers=foreign).json() == {"checked": False}
            for path in ("/sub/run/tinv", "/tinv/v1/runs"):
                reply = client.post(path, headers=foreign, json={})
                assert (reply.status_code, "another site" in reply.json()["error"]) == (403, True)
            assert client.post("/tinv/v1/runs", json={}).headers["X-Content-Type-Options"] == "nosniff"
            assert client.post("/sub/run/tinv", json={}).status_code == 409
            assert client.post("/sub/run/tinv", content=b"{}").status_code == 415
            assert client.post("/sub/run/tinv", json={"data": ["x" * (2 << 20)]}).status_code == 413
            with pytest.raises(TextualInversionError):
                uploads.resolve(str(tmp_path / "a" / "mug.png"))
            assert client.post("/upload?for=tinv").json()[1] == "/etc/passwd"
            assert uploads.resolve(str(tmp_path / "a" / "mug.png")).name == "mug.png"
            with pytest.raises(TextualInversionError):
                uploads.resolve("/etc/passwd")


def test_uploads_are_known_before_the_browser_has_the_reply(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "mug.png").touch()
    uploads, sent = UploadRegistry(), []

    async def send(message):
        uploads.resolve(str(tmp_path / "mug.png"))
        sent.append(message["type"])

    async def reply():
        watched = watch_upload({"query_string": b""}, send, uploads, all_ours=True)
        await watched({"type": "http.response.start", "status": 200, "headers": []})
        await watched(
            {"type": "http.response.body", "body": json.dumps([str(tmp_path / "mug.png")]).encode(), "more_body": True}
        )
        await watched({"type": "http.response.body", "body": b""})

    asyncio.run(reply())
    assert sent == ["http.response.start", "http.response.body", "http.response.body"]


def test_what_listening_adds():
    local, listening = AllowedHosts(), AllowedHosts(listens=True)
    own = scope("192.168.1.5:7870", server=("192.168.1.5", 7870))
    assert refusal(own, listening) is None
    assert "--allow-host 192.168.1.5" in refusal(own, local)
    assert not answered(listening, "192.168.1.6:7870", server=("192.168.1.5", 7870))
    for name in listening.own_names:
        assert answered(listening, name)
    assert local.own_names == ()


class TestThrottle:
    def throttle(self):
        self.now = 1000.0
        return Throttle(lambda: self.now)

    def test_waits_grow_and_a_success_ends_them(self):
        throttled = self.throttle()
        for _ in range(throttle.FREE_FAILURES):
            assert throttled.begin("1.2.3.4") == 0
        first = throttled.begin("1.2.3.4")
        assert 0 < first <= throttle.FIRST_WAIT_S
        assert throttled.begin("1.2.3.5") == 0
        throttled.succeed("1.2.3.5")
        self.now += first
        assert throttled.begin("1.2.3.4") == 0
        second = throttled.begin("1.2.3.4")
        assert first < second
        self.now += second
        assert throttled.begin("1.2.3.4") == 0
        throttled.succeed("1.2.3.4")
        assert throttled.begin("1.2.3.4") == 0

    def test_many_addresses_do_not_help(self):
        throttled = self.throttle()
        assert [throttled.begin(f"fd00::{n:x}") for n in range(throttle.FREE_FAILURES + 1)][
            -1
        ] > 0  # all of one network
        throttled = self.throttle()
        waits = [throttled.begin(f"10.0.{n}.1") for n in range(throttle.MAX_PER_MINUTE + 1)]
        assert not any(waits[:-1])
        assert 0 < waits[-1] <= 60
        self.now += 61
        assert throttled.begin("10.9.9.9") == 0


@pytest.mark.parametrize("accounts", ["u:p,", ",u:p", "u:p,,", "u:p,:", "u:p,:x", "u:p,x:", " u:p , "])
def test_half_an_account_admits_nobody(accounts):
    from fastapi import Depends

    app = FastAPI()

    @app.get("/", dependencies=[Depends(basic_auth(accounts))])
    async def get() -> dict:
        return {}

    client = TestClient(app)
    assert client.get("/", auth=("u", "p")).status_code == 200
    for wrong in (("", ""), ("", "x"), ("x", ""), (" ", " ")):
        assert client.get("/", auth=wrong).status_code == 401
    assert client.get("/").headers["WWW-Authenticate"] == "Basic"
    statuses = [client.get("/", auth=("u", f"guess {n}")).status_code for n in range(20)]
    assert statuses[-1] == 429


class TestHiddenFolders:
    def host(self, tmp_path, hides_paths=True):
        folder = tmp_path / "Jo Doe, photos; (new)"
        return SimpleNamespace(
            hides_paths=hides_paths, runs_dir=folder / "runs", embeddings_dir=folder / "embeddings",
            selected_checkpoint=lambda: SimpleNamespace(path=folder / "models" / "a.ckpt"),
        )  # fmt: skip

    def test_known_folders_go_whatever_they_are_called(self, tmp_path):
        host = self.host(tmp_path)
        redact = redaction.redaction(host)
        traceback = f'File "{host.runs_dir}/x.py", line 5\n  open({str(host.embeddings_dir / "a.pt")!r})'
        reply = redact(
            {"a": [f"{host.runs_dir} is full", {"b": traceback}], "file": str(host.runs_dir / "mug" / "x.pt"), "n": 5}
        )
        assert "Doe" not in json.dumps(reply)
        assert str(tmp_path) not in json.dumps(reply)
        assert reply["a"][0] == "… is full"
        assert reply["a"][1]["b"] == "File \"x.py\", line 5\n  open('a.pt')"
        assert reply["n"] == 5

    @pytest.mark.parametrize(
        ("text", "hidden"),
        [
            ("/srv/My Pics/a.png: not a picture", "a.png: not a picture"),
            ("there is no folder /srv/data", "there is no folder data"),
            (r"C:\Users\Jo Doe\x\a.safetensors: bad", "a.safetensors: bad"),
            (r"\\server\share\jo\a.pt", "a.pt"),
            ("in '~/pictures/a.png'", "in 'a.png'"),
            ("[Errno 2] No such file or directory: '/a/b/c'", "[Errno 2] No such file or directory: 'c'"),
        ],
    )
    def test_other_folders(self, tmp_path, text, hidden):
        assert redaction.redaction(self.host(tmp_path))(text) == hidden

    @pytest.mark.parametrize(
        "text",
        ["my-mug/2026-01-01", "data:image/jpeg;base64,/9j/4AAQ/x/y+/w==", "1/2 a / b", "https://example.org/a/b", "<td></td>",
         "//", '<img src="data:image/png;base64,/9j/4A/"> /'],
    )  # fmt: skip
    def test_what_is_no_path_stays(self, tmp_path, text):
        assert redaction.redaction(self.host(tmp_path))(text) == text

    def test_nothing_is_hidden_unless_asked(self, tmp_path):
        assert redaction.redaction(self.host(tmp_path, hides_paths=False))("/srv/data/a") == "/srv/data/a"


class TestUploadRegistry:
    @pytest.fixture
    def uploads(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
        return UploadRegistry()

    def test_what_is_never_added_expires(self, uploads):
        ours, theirs = uploads.store(b"ours"), uploads.store(b"theirs")
        uploads.register(theirs, is_ours=False)
        uploads.register(theirs)  # the same picture, also dropped on our page
        uploads.delete_stale(max_age_s=60)
        assert ours.exists()
        uploads.delete_stale(max_age_s=-1)
        assert not ours.exists()
        assert not ours.parent.exists()
        assert theirs.exists(), "the WebUI's own pages show it"
        with pytest.raises(TextualInversionError, match="just uploaded"):
            uploads.resolve(str(theirs))

    def test_too_many_bytes_do_not_stay(self, uploads, monkeypatch):
        monkeypatch.setattr("lib_ti.webui.images.uploads.MAX_PENDING_BYTES", 25)
        paths = [uploads.store(b"0123456789") for _ in range(5)]
        uploads.delete_stale()
        assert [path.exists() for path in paths] == [False, False, False, True, True]


class TestDecoder:
    @pytest.fixture
    def decoder(self):
        decoder = Decoder()
        yield decoder
        decoder.close()

    def test_kinds_have_limits(self, decoder, tmp_path):
        for name, content in (
            ("bomb.png", png_header(10_900, 10_900)),
            ("deep.png", png_header(6000, 6000, bits=16)),
            ("text.png", b"no picture"),
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UnusableFile) as refused:
                decoder.prepare(tmp_path / name, tmp_path / "out.png")
            assert ("too large" in refused.value.reason) is (name != "text.png")
        Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
        assert decoder.prepare(tmp_path / "a.png", tmp_path / "out.png")["width"] == 40
        assert decoder.thumbnail(tmp_path / "a.png", 64).startswith("data:image/jpeg;base64,")

    @pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is limited on Linux alone")
    def test_memory_is_limited(self, decoder, tmp_path):
        Image.new("RGB", (8000, 8000)).save(tmp_path / "a.png", compress_level=1)
        decoder.prepare(tmp_path / "a.png", tmp_path / "out.png")
        status = Path(f"/proc/{decoder._process.pid}/status").read_text()
        peak_kb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        assert peak_kb < 1_200_000
        limits = Path(f"/proc/{decoder._process.pid}/limits").read_text()
        assert (
            "unlimited" not in next(line for line in limits.splitlines() if line.startswith("Max address space"))[:40]
        )

    def test_a_dying_or_hanging_process_costs_one_picture(self, decoder, tmp_path, monkeypatch):
        Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
        decoder.prepare(tmp_path / "a.png", tmp_path / "out.png")
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / "pipe.png")
            with pytest.raises(UnusableFile):
                decoder.prepare(tmp_path / "pipe.png", tmp_path / "out.png")
        Image.new("RGB", (6000, 6000)).save(tmp_path / "large.png", compress_level=1)
        monkeypatch.setattr(decoder_module, "TIMEOUT_S", 0.0)
        with pytest.raises(UnusableFile, match="too long or too much memory"):
            decoder.prepare(tmp_path / "large.png", tmp_path / "out.png")
        monkeypatch.undo()
        assert decoder.prepare(tmp_path / "a.png", tmp_path / "out.png")["width"] == 40
