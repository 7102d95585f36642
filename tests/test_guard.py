"""The standalone server against requests from outside: a real process, asked over HTTP on the installed gradio."""

import http.client
import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import gradio
import pytest
from driver.server import Server
from PIL import Image
from test_images import png_header

pytestmark = pytest.mark.smoke
DRAFT = "0123456789abcdef" * 2
JSON = {"Content-Type": "application/json"}
HAS_WEBSOCKET = gradio.__version__.startswith("3.")


class Client:
    """Sends requests exactly as told, and keeps cookies."""

    def __init__(self, server: Server) -> None:
        self.server, self.cookie = server, ""
        self.host, self.port = urlsplit(server.url).hostname, urlsplit(server.url).port
        self.address = f"{self.host}:{self.port}"

    def ask(self, method, path, body=None, headers=None, host=None):
        """Status, headers and content of the reply."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for value in [self.address] if host is None else host if isinstance(host, list) else [host]:
            connection.putheader("Host", value)
        fields = {**({"Cookie": self.cookie} if self.cookie else {}), **(headers or {})}
        if body is not None:
            fields.setdefault("Content-Length", str(len(body)))
        for name, value in fields.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, reply.headers, content

    def status(self, *args, **more) -> int:
        return self.ask(*args, **more)[0]

    def call(self, action, headers=JSON, **arguments):
        """Call an action; the status and its reply."""
        status, _, content = self.ask("POST", "/run/tinv", call(action, **arguments), headers)
        reply = json.loads(content)
        return status, json.loads(reply["data"][0]) if "data" in reply else reply

    def upload(self, name, content):
        """Upload a file; the path that gradio gives it."""
        frame = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        status, _, reply = self.ask("POST", "/upload", frame + content + b"\r\n--x--\r\n", kind)
        assert status == 200
        return json.loads(reply)[0]


def call(action, **arguments) -> bytes:
    return json.dumps({"data": [json.dumps({"do": action, **arguments})]}).encode()


POLL = call("poll", run=None, after=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(
        tmp_path_factory.mktemp("ui"), "--allow-host", "paint.example.org", "--allow-host", "art.example.org:8443"
    )
    yield running
    running.stop()


@pytest.fixture
def client(server):
    return Client(server)


class TestNamesAndOrigins:
    def test_own_names_are_answered(self, client):
        for name in (
            f"localhost:{client.port}",
            "127.0.0.1",
            "[::1]:80",
            "LOCALHOST",
            "paint.example.org",
            "art.example.org",
        ):
            assert client.status("GET", "/config", host=name) == 200
            assert client.status("POST", "/run/tinv", POLL, {**JSON, "Origin": f"http://{name}"}, host=name) == 200

    def test_other_names_are_refused(self, client):
        names = ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.1.2.3", "", "a b", "evil.example:80:80",
                 "user@localhost", ["localhost", "evil.example"], ["localhost", "localhost"], [])  # fmt: skip
        for name in names:
            for method, path, body, headers in (
                ("GET", "/", None, {}),
                ("GET", "/config", None, {}),
                ("GET", "/tinv-static/tinv.js", None, {}),
                ("POST", "/run/tinv", POLL, JSON),
            ):
                with suppress(ConnectionError):  # the server does not even read on
                    assert client.status(method, path, body, headers, host=name) in (400, 403), (name, path)
        assert client.status("GET", "/config", headers={"X-Forwarded-Host": "evil.example"}) == 403
        assert client.status("GET", "/config", headers={"X-Forwarded-Host": "paint.example.org"}) == 200

    @pytest.mark.parametrize(
        "path", ["/run/tinv", "/run/predict", "/queue/join", "/reset", "/cancel", "/upload", "/login"]
    )
    def test_pages_of_other_sites_are_refused(self, client, path):
        origins = ("http://evil.example", f"http://127.0.0.1:{client.port + 1}", f"http://localhost:{client.port}", "null",
                   f"http://{client.address}.evil.example", "", f"http://{client.address}@evil.example")  # fmt: skip
        for origin in origins:
            for headers in (JSON, {"Content-Type": "text/plain"}, {}):
                assert client.status("POST", path, POLL, {**headers, "Origin": origin}) == 403
                assert client.status("OPTIONS", path, None, {**headers, "Origin": origin}) == 403
        for site in ("cross-site", "same-site"):
            assert client.status("POST", path, POLL, {**JSON, "Sec-Fetch-Site": site}) == 403

    def test_own_page_is_answered(self, client):
        assert client.status("POST", "/run/tinv", POLL, {**JSON, "Origin": f"http://{client.address}"}) == 200
        own = {**JSON, "Origin": f"http://{client.address}", "Sec-Fetch-Site": "same-origin"}
        assert client.status("POST", "/run/tinv", POLL, own) == 200
        assert client.status("POST", "/run/tinv", POLL, JSON) == 200  # no page, but a script of the user's
        proxied = {**JSON, "Origin": "https://paint.example.org"}
        assert client.status("POST", "/run/tinv", POLL, proxied, host="paint.example.org") == 200
        assert client.status("POST", "/run/tinv", POLL, {**proxied, "X-Forwarded-Host": "paint.example.org"}) == 200
        assert client.status("POST", "/run/tinv", POLL, {**JSON, "Origin": "https://art.example.org:8443"}) == 200

    def test_links_to_the_page_work_and_frames_do_not(self, client):
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        status, headers, _ = client.ask("GET", "/", headers=link)
        assert status == 200
        assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert client.status("GET", "/", headers={**link, "Sec-Fetch-Dest": "iframe"}) == 403
        assert client.status("GET", "/config", headers=link) == 403

    def test_websockets_of_other_sites_are_refused(self, client):
        assert not opens_websocket(client, {"Origin": "http://evil.example"})
        assert not opens_websocket(client, {"Host": "evil.example", "Origin": "http://evil.example"})
        if HAS_WEBSOCKET:
            assert opens_websocket(client, {"Origin": f"http://{client.address}"})

    def test_calls_have_to_be_json(self, client):
        for kind in (
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/json",
        ):
            assert client.status("POST", "/run/tinv", POLL, {"Content-Type": kind}) == 415
            assert client.status("POST", "/run/predict", POLL, {"Content-Type": kind}) == 415
        assert client.status("POST", "/run/tinv", POLL) == 415
        assert client.status("POST", "/run/tinv", POLL, {"Content-Type": "application/json; charset=utf-8"}) == 200

    def test_actions_have_one_address(self, client):
        config = json.loads(client.ask("GET", "/config")[2])
        number = next(i for i, d in enumerate(config["dependencies"]) if d.get("api_name") == "tinv")
        body = json.dumps({**json.loads(POLL), "fn_index": number, "session_hash": "s"}).encode()
        for path in ("/run/predict", "/api/predict", "/api/tinv", "/call/tinv"):
            status, _, content = client.ask("POST", path, body, JSON)
            assert status >= 400
            assert b"active" not in content


def opens_websocket(client, headers) -> bool:
    fields = {"Host": client.address, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
              "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==", **headers}  # fmt: skip
    request = "GET /queue/join HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
    with socket.create_connection((client.host, client.port), timeout=30) as connection:
        connection.sendall(request.encode())
        return connection.recv(100).startswith(b"HTTP/1.1 101")


class TestUploads:
    @pytest.mark.parametrize("name", ["a.html", "a.svg", "a.xhtml", "a.xml", "a.js", "a.pdf", "a.htm", "a", "a.mht"])
    def test_what_is_no_picture_is_never_shown(self, client, name):
        path = client.upload(name, b"<script>alert(1)</script>")
        for address in (f"/file={quote(path)}", f"/file/{quote(path)}"):
            status, headers, _ = client.ask("GET", address)
            assert status == 200
            assert headers["Content-Disposition"].startswith("attachment")
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "sandbox" in headers["Content-Security-Policy"]
        status, reply = client.call("add", draft=DRAFT, path=path, name=name)
        assert reply["refused"]
        assert not Path(path).exists()

    def test_pictures_are_shown_but_run_nothing(self, client, pictures):
        path = client.upload("0.png", (pictures / "0.png").read_bytes())
        status, headers, _ = client.ask("GET", f"/file={quote(path)}")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert "Content-Disposition" not in headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        status, reply = client.call("add", draft=DRAFT, path=path, name="0.png")
        assert [image["name"] for image in reply["pictures"]] == ["0.png"]
        assert not Path(path).exists()

    def test_files_of_others_can_neither_be_added_nor_read(self, client, pictures):
        folder = client.server.data / "uploads" / ("ab" * 20)
        folder.mkdir(parents=True, exist_ok=True)
        other = folder / "other.png"
        other.write_bytes((pictures / "1.png").read_bytes())
        for path in (other, pictures / "1.png", "/etc/passwd"):
            _, reply = client.call("add", draft=DRAFT, path=str(path), name="other.png")
            assert "error" in reply
        assert other.exists()
        replies = {
            client.ask("GET", f"/file={quote(str(path))}")[0::2]
            for path in (pictures / "1.png", "/etc/passwd", "/etc/gone")
        }
        assert [status for status, _ in replies] == [404], "whether a file exists is nobody's business"

    @pytest.mark.parametrize(
        "address", ["https://evil.example/", "http:/evil.example", "//evil.example", "file:///etc/passwd"]
    )
    def test_nothing_is_redirected(self, client, address):
        for path in (f"/file={address}", f"/file/{address}", f"/proxy={address}"):
            status, headers, _ = client.ask("GET", path)
            assert status == 404
            assert "Location" not in headers


class TestBounds:
    @pytest.mark.parametrize("path", ["/upload", "/run/tinv", "/run/predict", "/queue/join"])
    def test_announced_sizes(self, client, path):
        kind = {"Content-Type": "multipart/form-data; boundary=x"} if path == "/upload" else JSON
        for length in (str(500 << 20), "9" * 40):
            status, _, content = client.ask("POST", path, b"", {**kind, "Content-Length": length})
            assert status == 413
            assert json.loads(content)["error"].startswith("The request is larger than")

    @pytest.mark.parametrize("path", ["/upload", "/run/tinv"])
    def test_unannounced_sizes(self, client, path):
        is_upload = path == "/upload"
        start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' if is_upload else b" "
        kind = "multipart/form-data; boundary=x" if is_upload else "application/json"
        megabyte = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        with socket.create_connection((client.host, client.port), timeout=60) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {client.address}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(start), start))
            try:
                for _ in range(110 if is_upload else 3):
                    connection.sendall(megabyte)
            except ConnectionError:  # refused already
                pass
            assert connection.recv(100).startswith(b"HTTP/1.1 413")

    def test_bombs_are_refused_by_their_header(self, client):
        bomb = png_header(10_900, 10_900)
        for number in range(8):
            path = client.upload(f"{number}.png", bomb + bytes([number]))
            _, reply = client.call("add", draft=DRAFT, path=path, name=f"{number}.png")
            assert "too large" in reply["refused"][0]["reason"]

    def test_trainings_that_can_only_fail_delay_nobody(self, client):
        form = client.call("form")[1]["values"]
        replies = []

        def train(number):
            replies.append(client.call("train", form={**form, "name": "x"}, draft=f"{number:032x}", token=str(number)))

        threads = [threading.Thread(target=train, args=(number,)) for number in range(20)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        assert client.call("poll", run=None, after=0)[0] == 200
        for thread in threads:
            thread.join(30)
        assert time.monotonic() - start < 8
        assert [status for status, _ in replies] == [409] * 20
        problems = [reply["problems"] for _, reply in replies if "problems" in reply]
        assert "add pictures first" in problems[0][0]["message"]
        assert all("moment" in reply["error"] for _, reply in replies if "error" in reply)

    def test_nothing_unused_is_open(self, client):
        for path in (
            "/monitoring",
            "/dev/reload",
            "/upload_progress?upload_id=x",
            "/stream/a/1/1",
            "/custom_component/a/b/c",
        ):
            assert client.status("GET", path) == 404
        assert client.status("POST", "/component_server", b"{}", JSON) == 404


@pytest.fixture(scope="module")
def closed_server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("closed"), "--auth", "me:sécret:1", "--hide-paths")
    yield running
    running.stop()


class TestLogin:
    def log_in(self, client, password, user="me"):
        body = f"username={quote(user)}&password={quote(password)}".encode()
        return client.ask("POST", "/login", body, {"Content-Type": "application/x-www-form-urlencoded"})

    def test_nothing_is_answered_before(self, closed_server):
        client = Client(closed_server)
        body = json.dumps({"data": [], "session_hash": "s", "fn_index": 0, "event_id": "e"}).encode()
        posts = ("/run/tinv", "/run/predict", "/api/predict", "/queue/join", "/cancel", "/reset", "/reset/", "/upload", "/call/x",
                 "/component_server")  # fmt: skip
        gets = ("/config", "/config/", "/info", "/queue/data?session_hash=s", "/queue/status", "/heartbeat/s", "/token", "/user",
                "/app_id", "/upload_progress?upload_id=x", "/monitoring", "/startup-events", "/file=/etc/passwd", "/file/x",
                "/stream/a/1/1", "/proxy=http://localhost", "/dev/reload", "/logout")  # fmt: skip
        for cookie in ("", "access-token=guess; access-token-unsecure=guess"):
            client.cookie = cookie
            assert {path: client.status("POST", path, body, JSON) for path in posts} == dict.fromkeys(posts, 401)
            assert {path: client.status("GET", path) for path in gets} == dict.fromkeys(gets, 401)
            assert not opens_websocket(client, {"Origin": f"http://{client.address}", "Cookie": cookie or "a=b"})
        page = client.ask("GET", "/")[2]
        assert b"auth_required" in page
        assert b"txt2img_prompt" not in page

    def test_login_and_folders(self, closed_server, pictures):
        client = Client(closed_server)
        assert self.log_in(client, "wrong")[0] == 400
        status, headers, _ = self.log_in(client, "sécret:1")
        assert status == 200
        client.cookie = "; ".join(value.partition(";")[0] for value in headers.get_all("Set-Cookie"))
        assert client.call("poll", run=None, after=0)[0] == 200
        folder = str(closed_server.data)
        for action, arguments in (
            ("folder", {"draft": DRAFT, "path": str(pictures)}),
            ("poll", {"run": "a/b", "after": "x"}),
            (
                "check",
                {
                    "form": {"name": "x", "init_embedding": f"{folder}/x.pt", "template_file": "/etc/passwd"},
                    "draft": DRAFT,
                },
            ),
            ("check", {"form": 5, "draft": DRAFT}),
            ("use", {"run": "a/b", "step": []}),
        ):
            reply = json.dumps(client.call(action, **arguments)[1])
            assert folder not in reply
            assert os.getcwd() not in reply  # noqa: PTH109
            assert "/lib_ti/" not in reply
            assert "/etc/" not in reply

    def test_guessing_is_slowed_down(self, closed_server):
        client = Client(closed_server)
        statuses = [self.log_in(client, f"guess{number}")[0] for number in range(14)]
        assert statuses[0] == 400
        assert statuses[-1] == 429
        status, headers, content = self.log_in(client, "sécret:1")
        assert status == 429
        assert int(headers["Retry-After"]) >= 1
        assert "try again in" in json.loads(content)["error"]


def test_server_ends_while_trainings_start(tmp_path, pictures):
    server = Server(tmp_path)
    client = Client(server)
    for path in sorted(pictures.glob("*.png")):
        client.call("add", draft=DRAFT, path=client.upload(path.name, path.read_bytes()), name=path.name)
    form = client.call("form")[1]["values"]

    def train(number):
        with suppress(OSError, ValueError, http.client.HTTPException):  # the server has ended
            client.call("train", form={**form, "name": f"word-{number}"}, draft=DRAFT, token=str(number))

    threads = [threading.Thread(target=train, args=(number,), daemon=True) for number in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    start = time.monotonic()
    server.stop()
    assert time.monotonic() - start < 30


def test_uploads_are_gone_when_the_server_has_ended(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    server = Server(tmp_path, environment={"TMPDIR": str(temporary), "TEMP": str(temporary), "GRADIO_TEMP_DIR": ""})
    path = Path(Client(server).upload("a.png", png_header(1, 1)))
    assert temporary in path.parents
    if os.name != "nt":
        assert path.parents[1].stat().st_mode & 0o077 == 0, "nobody else on this computer can read it"
    server.stop()
    assert list(temporary.iterdir()) == []


def test_picture_of_the_largest_size_that_is_accepted_is_kept_small(client, tmp_path):
    Image.new("L", (4096, 4096)).save(tmp_path / "a.png")
    path = client.upload("a.png", (tmp_path / "a.png").read_bytes())
    _, reply = client.call("add", draft=DRAFT, path=path, name="a.png")
    assert (reply["pictures"][0]["width"], reply["pictures"][0]["height"]) == (2048, 2048)
