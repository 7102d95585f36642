"""The REST API, on a fake training service."""

import base64
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.webui.api import rest, rest_replies
from lib_ti.webui.images.uploads import UploadRegistry

RUN = "my-mug/2024-05-01T12-00-00"
AT = f"/tinv/v1/runs/{RUN}"


class FakeTrainingService:
    """Records the calls of its actions."""

    def __init__(self):
        self.drafts, self.trained, self.calls = {}, [], []
        self.fails = None
        self.polls = []
        self.uploads = UploadRegistry()

    def redact(self, reply):
        return reply

    def actions(self):
        names = (
            "runs", "poll", "stop", "resume", "form", "add", "caption", "discard", "train", "delete", "export", "report",
            "preview", "test_picture",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def runs(self, offset=0, limit=30, run=None):
        runs = [{"id": RUN, "name": "my-mug", "state": "running", "thumb": "data:image/png;base64,AAAA"}]
        return {"runs": runs if run in (None, RUN) and not offset else [], "total": 1}

    def poll(self, run, after):
        self.polls.append(after)
        if after == 0:
            return {"run": {"id": run, "state": "training", "events": [{"kind": "loading"}], "after": 7, "more": True}}
        return {"run": {"id": run, "state": "finished", "events": [{"kind": "step"}], "after": 9, "more": False}}

    def stop(self, run):
        self.calls.append(("stop", run))
        if self.fails:
            raise self.fails
        return {}

    def delete(self, run):
        self.calls.append(("delete", run))
        if self.fails:
            raise self.fails
        return {}

    def export(self, run, format, step=None):
        if self.fails:
            raise self.fails
        return {"file": f"кружка-{format}-{step}.pt", "data": base64.b64encode(b"vectors").decode()}

    def report(self, run):
        return {"html": "<h1>my-mug</h1>"}

    def preview(self, run, step, prompt, seed, full):
        return {
            "image": f"data:image/png;base64,{base64.b64encode(f'{step} {prompt} {seed} {full}'.encode()).decode()}"
        }

    def test_picture(self, run, prompt, full):
        return {"image": f"data:image/png;base64,{base64.b64encode(f'{prompt} {full}'.encode()).decode()}"}

    def resume(self, run, steps, form):
        self.calls.append(("resume", run, steps, form))
        return {"run": run}

    def form(self):
        return {"values": {"name": "", "steps": "500", "flip": False, "preview_prompt": ""}, "presets": {}}

    def add(self, draft, path, name):
        data = Path(path).read_bytes()
        if data == b"not a picture":
            return {"pictures": [], "refused": [{"name": name, "reason": "not a picture that can be read"}]}
        self.drafts.setdefault(draft, []).append([name, data, ""])
        return {"pictures": [{"id": str(len(self.drafts[draft]) - 1), "name": name}], "refused": []}

    def caption(self, draft, id, text):
        self.drafts[draft][int(id)][2] = text
        return {}

    def discard(self, draft):
        self.drafts.pop(draft, None)
        return {}

    def train(self, form, draft, token):
        if self.fails:
            raise self.fails
        self.trained.append((form, self.drafts[draft]))
        return {"run": RUN, "warnings": []}


@pytest.fixture
def service(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return FakeTrainingService()


def client_of(service, api_auth=None):
    app = FastAPI()
    rest.add_routes(app, service, api_auth)
    return TestClient(app, headers={"Content-Type": "application/json"})


@pytest.fixture
def client(service):
    return client_of(service)


def picture(name="1.png", data=b"pixels", **more):
    return {"name": name, "data": base64.b64encode(data).decode(), **more}


def problems(reply):
    assert reply.status_code == 422
    return [(problem["option"], problem["message"]) for problem in reply.json()["problems"]]


def test_list_omits_thumbnails(client):
    listed = {"runs": [{"id": RUN, "name": "my-mug", "state": "running"}], "total": 1}
    assert client.get("/tinv/v1/runs").json() == listed
    assert client.get("/tinv/v1/runs?offset=1&limit=5").json() == {"runs": [], "total": 1}


def test_get_run_collects_all_events(client, service):
    run = client.get(AT).json()
    assert run["state"] == "finished"
    assert [event["kind"] for event in run["events"]] == ["loading", "step"]
    assert service.polls == [0, 7]


@pytest.mark.parametrize(("method", "end"), [("get", ""), ("post", "/stop"), ("post", "/resume")])
def test_unknown_run_is_404(client, service, method, end):
    reply = getattr(client, method)(f"/tinv/v1/runs/my-mug/2023{end}")
    assert (reply.status_code, reply.json()) == (404, {"error": "There is no run my-mug/2023."})
    assert not service.calls


def test_stop_and_resume(client, service):
    assert client.post(f"{AT}/stop").json() == {}
    assert client.post(f"{AT}/resume").json() == {"run": RUN}
    assert client.post(f"{AT}/resume", json={"steps": 800}).json() == {"run": RUN}
    assert service.calls == [("stop", RUN), ("resume", RUN, None, None), ("resume", RUN, 800, None)]
    for steps in (True, "800", 8.5):
        assert problems(client.post(f"{AT}/resume", json={"steps": steps})) == [("steps", "is not a whole number")]
    assert problems(client.post(f"{AT}/resume", json={"name": "other"}))[0][0] == "name"
    assert len(service.calls) == 3


def test_start_a_run(client, service, tmp_path):
    body = {
        "name": "my-mug", "steps": 300, "flip": True, "preview_prompt": ["a [name]", "two [name]"], "seed": None,
        "pictures": [picture("1.png", caption="a red mug"), {**picture("2.png"), "data": "data:image/png;base64,AAAA"}],
    }  # fmt: skip
    del body["seed"]
    assert client.post("/tinv/v1/runs", json=body).json() == {"run": RUN, "warnings": []}
    ((form, pictures),) = service.trained
    assert form == {"name": "my-mug", "steps": "300", "flip": True, "preview_prompt": "a [name]\ntwo [name]"}
    assert pictures == [["1.png", b"pixels", "a red mug"], ["2.png", b"\0\0\0", ""]]
    assert list((tmp_path / "uploads").iterdir()) == []
    assert not service.drafts


def test_problems_of_the_settings_are_passed_on(client, service):
    service.fails = BadInput([Problem("name", "is taken"), Problem("steps", "is out of range")])
    reply = client.post("/tinv/v1/runs", json={"name": "cat", "steps": 0, "pictures": [picture()]})
    assert problems(reply) == [("name", "is taken"), ("steps", "is out of range")]
    assert not service.drafts


@pytest.mark.parametrize(
    ("body", "option", "message"),
    [
        ({"pictures": [picture()], "out": "/etc"}, "out", "is no setting that can be given here"),
        ({"pictures": [picture()], "steps": {"a": 1}}, "steps", "is neither a text"),
        ({"pictures": [picture()], "preview_prompt": [["a"]]}, "preview_prompt", "is neither a text"),
        ({}, "pictures", "is missing"),
        ({"pictures": []}, "pictures", "is missing"),
        ({"pictures": "1.png"}, "pictures", "is missing"),
        ({"pictures": [picture(), 5]}, "pictures", "number 2 is not"),
        ({"pictures": [{"name": "x"}]}, "pictures", "number 1 is not"),
        ({"pictures": [{"name": 5, "data": "AAAA"}]}, "pictures", "number 1 is not"),
        ({"pictures": [{"name": "x.png", "data": "no base64!"}]}, "pictures", "x.png: its data is not base64"),
        ({"pictures": [picture("x.png", b"not a picture")]}, "pictures", "x.png: not a picture that can be read"),
    ],
)
def test_invalid_requests_start_nothing(client, service, tmp_path, body, option, message):
    ((refused_option, reason),) = problems(client.post("/tinv/v1/runs", json=body))
    assert refused_option == option
    assert message in reason
    assert not service.trained
    assert not service.drafts
    assert not (tmp_path / "uploads").exists() or not list((tmp_path / "uploads").iterdir())


def test_body_must_be_a_json_object(client):
    def post(content, kind="application/json; charset=utf-8"):
        return client.post("/tinv/v1/runs", content=content, headers={"Content-Type": kind})

    for content in (b"{", b"[]", b"\xff\xfe", b"[" * 100_000):
        assert post(content).status_code == 400
        assert post(content).json() == {"error": "The request is not a JSON object."}
    assert post(b"{}", "text/plain").status_code == 415  # what a page of another site could send
    for path in (f"{AT}/resume", f"{AT}/stop", "/tinv/v1/runs"):
        for kind in ("", "application/x-www-form-urlencoded", "application/jsonp"):
            for body in (b"", b"{}"):
                assert client.post(path, content=body, headers={"Content-Type": kind}).status_code == 415


def test_oversized_request_is_refused(client, monkeypatch):
    monkeypatch.setattr(rest_replies, "MAX_BODY_BYTES", 1 << 20)
    assert client.post("/tinv/v1/runs", json={"name": "x" * (2 << 20)}).status_code == 413


def test_error_status_codes(client, service):
    service.fails = TextualInversionError("This run is not running.")
    reply = client.post(f"{AT}/stop")
    assert (reply.status_code, reply.json()) == (409, {"error": "This run is not running."})
    service.fails = RuntimeError("oh")
    reply = client.post(f"{AT}/stop")
    assert (reply.status_code, reply.json()) == (500, {"error": "RuntimeError: oh"})


def test_basic_auth(service):
    client = client_of(service, "ann:secret,bob:pass:word,zoë:ключ")  # FastAPI itself reads no more than ASCII
    allowed = [("ann", "secret"), ("bob", "pass:word")]
    refused = [("ann", "pass:word"), ("ann", ""), ("", ""), ("ann", "secret "), ("eve", "secret"), ("zoë", "ключ")]
    routes = [
        ("get", "/tinv/v1/runs"),
        ("post", "/tinv/v1/runs"),
        ("get", AT),
        ("post", f"{AT}/stop"),
        ("post", f"{AT}/resume"),
    ]
    for method, path in routes:
        assert getattr(client, method)(path).status_code == 401
        assert getattr(client, method)(path).headers["www-authenticate"] == "Basic"
        for auth in refused:
            assert getattr(client, method)(path, auth=auth).status_code == 401
        for auth in allowed:
            assert getattr(client, method)(path, auth=auth).status_code != 401
    assert client.get("/tinv/v1/runs", headers={"Authorization": "Bearer secret"}).status_code == 401


def test_a_run_is_deleted(service, client):
    assert client.request("DELETE", AT, headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.delete("/tinv/v1/runs/my-mug/2000-01-01T00-00-00").status_code == 404
    assert client.delete(AT).json() == {}
    assert service.calls == [("delete", RUN)]
    service.fails = TextualInversionError("Stop this training before deleting it.")
    reply = client.delete(AT)
    assert (reply.status_code, reply.json()) == (409, {"error": "Stop this training before deleting it."})


def test_files_of_a_run(service, client):
    reply = client.get(f"{AT}/embedding", params={"step": 20, "format": "a1111"})
    assert reply.content == b"vectors"
    assert reply.headers["content-disposition"].endswith("-a1111-20.pt")
    assert client.get(f"{AT}/embedding", params={"step": "x"}).status_code == 422
    assert client.get(f"{AT}/previews/10-0-2.png").content == b"10 0 2 True"
    assert client.get(f"{AT}/tests/1.png").content == b"1 True"
    report = client.get(f"{AT}/report.html")
    assert report.text == "<h1>my-mug</h1>"
    assert "sandbox" in report.headers["content-security-policy"]
    for file in (
        "previews/1.png",
        "tests/1-0-0.png",
        "tests/..%2f..%2fsettings.json",
        "images/0000.png",
        "previews/1-0-0.svg",
    ):
        assert client.get(f"{AT}/{file}").status_code == 404, file
    service.fails = TextualInversionError("This step was not saved; choose one whose vectors were kept.")
    assert client.get(f"{AT}/embedding").status_code == 404
