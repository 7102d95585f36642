"""The page of the standalone host: txt2img and the Textual Inversion tab, under the element ids of the WebUIs."""

from __future__ import annotations

import inspect
import os
import re
import tempfile
from html import escape
from pathlib import Path
from random import randrange
from typing import Any
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response

import lib_ti
from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.webui.service import TrainingService
from lib_ti.webui.standalone.host import Standalone, Wanted
from lib_ti.webui.ui import tab
from lib_ti.webui.ui.picker import picker

TITLE = "Textual Inversion"
STATIC = "tinv-static"
_FROM_ELSEWHERE = re.compile(
    rb"<script[^>]*\ssrc=[\"']https?://[^>]*>\s*</script>|<link[^>]*\shref=[\"']https?://[^>]*>"
)
"""What gradio's page fetches from the network, and does without: no other computer has to know that it was opened."""
STYLE = """<style>
#html_info_txt2img .wrap { display: none; } /* the gallery shows the progress already */
button.tool { align-self: end; max-width: 3em; }
</style>"""
_ROOT = Path(lib_ti.__file__).parent.parent


def build(host: Standalone, trainer: TrainingService) -> Any:
    """The page, as `gr.Blocks`."""
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}  # none from the network
    ours = tab.build(trainer)  # not within the page's own Blocks, which would take it in at once
    with gr.Blocks(title=TITLE, analytics_enabled=False, theme=gr.themes.Default(**fonts)) as page:
        with gr.Row(elem_id="quicksettings"):
            checkpoint = gr.Dropdown(
                [choice.title for choice in host.choices], value=lambda: host.selected().title, label="Checkpoint",
                elem_id="setting_sd_model_checkpoint",
            )  # fmt: skip
        with gr.Tabs(elem_id="tabs"):
            with gr.TabItem("txt2img", id="txt2img", elem_id="tab_txt2img"):
                width, height = _txt2img(host)
            with gr.TabItem(TITLE, id="textual_inversion", elem_id="tab_textual_inversion"):
                ours.render()

        def choose(title: str) -> tuple[int, int]:
            host.choose(title)
            return host.side(), host.side()

        checkpoint.input(choose, [checkpoint], [width, height], queue=False, show_progress="hidden", api_name=False)
    return page.queue()


def _txt2img(host: Standalone) -> tuple[Any, Any]:
    """The tab's contents; gives the fields of the pictures' size."""
    with gr.Row(elem_id="txt2img_toprow"):
        with gr.Column(scale=6):
            prompt = gr.Textbox(label="Prompt", elem_id="txt2img_prompt", lines=3)
            negative = gr.Textbox(label="Negative prompt", elem_id="txt2img_neg_prompt", lines=2)
        with gr.Column(scale=1, min_width=160):
            generate = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
            interrupt = gr.Button("Interrupt", elem_id="txt2img_interrupt")
    with gr.Row():
        with gr.Column(min_width=320, elem_id="txt2img_settings"):
            with gr.Row():
                steps = _number("Sampling steps", "steps", 20)
                width, height = _number("Width", "width", host.side()), _number("Height", "height", host.side())
            with gr.Row():
                scale = gr.Number(7, label="CFG scale", elem_id="txt2img_cfg_scale", min_width=100)
                seed, count = _number("Seed (-1: any)", "seed", -1), _number("Batch size", "batch_size", 1)
            picker("txt2img")
        with gr.Column(min_width=320):
            gallery = gr.Gallery(
                label="Pictures", elem_id="txt2img_gallery", columns=2, **_if_known(gr.Gallery, format="png")
            )
            told = gr.HTML(elem_id="html_info_txt2img")

    def make(progress: Any = gr.Progress(), *given: Any) -> tuple[Any, str]:  # noqa: B008 - gradio's way to ask for it
        progress(0, desc="Waiting for the training to end" if host.is_lent else "Loading the checkpoint")
        try:
            made = host.generate(_wanted(*given), lambda share: progress(share, desc="Generating"))
        except (TextualInversionError, RuntimeError, OSError) as error:  # no memory left; the checkpoint is gone
            return gr.update(), f'<p role="alert">{escape(str(error))}</p>'
        for image, infotext in zip(made.images, made.infotexts, strict=True):
            image.info["parameters"] = infotext  # gradio writes it into the PNG
        lines = [made.note, *made.infotexts[:1]]
        return list(made.images), "".join(f"<p>{escape(line)}</p>".replace("\n", "<br>") for line in lines if line)

    asked = [prompt, negative, steps, scale, width, height, seed, count]
    for event in (generate.click, prompt.submit, negative.submit):
        event(make, asked, [gallery, told], api_name=False)
    interrupt.click(host.interrupt, [], [], queue=False, api_name=False)
    return width, height


def _number(label: str, name: str, value: int) -> Any:
    return gr.Number(value, label=label, precision=0, elem_id=f"txt2img_{name}", min_width=100)


def _wanted(
    prompt: str, negative: str, steps: Any, scale: Any, width: Any, height: Any, seed: Any, count: Any
) -> Wanted:
    """What the fields ask for. Raises BadInput where that cannot be made."""
    limits = {
        "Sampling steps": (steps, 1, 1000), "CFG scale": (scale, 0, 100), "Width": (width, 64, 4096),
        "Height": (height, 64, 4096), "Seed": (seed, -1, 2**32 - 1), "Batch size": (count, 1, 100),
    }  # fmt: skip
    problems = [
        Problem("", f"{label} goes from {low} to {high}.")
        for label, (value, low, high) in limits.items()
        if value is None or not low <= value <= high
    ]
    if not problems and (width % 8 or height % 8):
        problems.append(Problem("", "Width and height have to be multiples of 8."))
    if problems:
        raise BadInput(problems)
    chosen = randrange(2**32) if seed == -1 else int(seed)
    return Wanted(prompt, negative, int(steps), float(scale), int(width), int(height), chosen, int(count))


def _if_known(component: Any, **given: Any) -> dict[str, Any]:
    """Those arguments that this gradio knows."""
    return {name: value for name, value in given.items() if name in inspect.signature(component).parameters}


def serve(trainer: TrainingService, page: Any, auth: tuple[str, str] | None = None) -> Any:
    """The web application: the page, and our scripts and style in it as the WebUIs put them there.

    `auth`: the user and the password that are asked for before anything else is shown.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(f"/{STATIC}/{{name}}")
    def static(name: str) -> Response:
        path = next((path for path in _ours() if path.name == name), None)
        return FileResponse(path) if path else Response(status_code=404)

    # not what the page was started in either, which gradio 3.41 would serve: it may hold anything
    unsafe = [*trainer.blocked(), *(str(place) for place in (Path.cwd(),) if place not in _temporary().parents)]
    page.auth, page.auth_message, page.blocked_paths = [auth] if auth else None, None, unsafe
    given = _if_known(gr.mount_gradio_app, auth=page.auth, blocked_paths=unsafe)
    return _Guarded(gr.mount_gradio_app(app, page, "/", **given))


def _temporary() -> Path:
    """Where gradio keeps the pictures that it shows."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()).absolute() / "gradio"


def _ours() -> list[Path]:
    return [*sorted((_ROOT / "javascript").glob("*.js")), *_ROOT.glob("style.css")]


def _head() -> bytes:
    """The elements that bring our files; a changed file has another address, so no browser keeps the old one."""
    lines = [STYLE]
    for path in _ours():
        address = f"{STATIC}/{quote(path.name)}?{path.stat().st_mtime_ns}"
        is_style = path.suffix == ".css"
        lines.append(f'<link rel="stylesheet" href="{address}">' if is_style else f'<script src="{address}"></script>')
    return "".join(lines).encode()


class _Guarded:
    """Puts our files into the page, and turns away what pages of other sites ask for: gradio 3.41 answers everybody."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers") or ())
        visit = scope.get("method") == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
        if headers.get(b"sec-fetch-site") == b"cross-site" and not visit:
            await _refuse(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in ("", "/"):
            await self._app(scope, receive, _Inserting(send))
        else:
            await self._app(scope, receive, send)


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
    else:
        await Response("Not for other sites.", 403)(scope, receive, send)


class _Inserting:
    """Sends a page on, with our files before the end of its head."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._start: Any = None
        self._body = b""

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = _FROM_ELSEWHERE.sub(b"", self._body).replace(b"</head>", _head() + b"</head>", 1)
        headers = [(k, v) for k, v in self._start["headers"] if k.lower() != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})
