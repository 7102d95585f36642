"""The one way between the page and Python, and what gradio 3.41 and 4.40 call differently.

The page calls `run/tinv`, the HTTP address that gradio gives the event below: it lies behind gradio's own login, shows no
toast when the host restarts, and leaves the page to the page's JavaScript. A request and its reply are one JSON text each.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr

from lib_ti.errors import BadInput, TextualInversionError

# Our own: gradio's forty may all be waiting for the lock that a training holds.
_threads = ThreadPoolExecutor(16, thread_name_prefix="textual-inversion")

log = logging.getLogger("lib_ti")

Action = Callable[..., Any]
# an unrendered one: this module may be imported while a host lays out its page
_JS = "js" if "js" in inspect.signature(gr.Button(render=False).click).parameters else "_js"


def on(event: Any, script: str, inputs: list[Any], outputs: list[Any] | None = None) -> None:
    """Let an event run `script`, a JavaScript function of the inputs' values that returns a list of the outputs'."""
    event(fn=None, inputs=inputs, outputs=outputs or [], **{_JS: script})


def endpoint(actions: Mapping[str, Action]) -> None:
    """Serve `actions` to the page, by their names. To be called within `gr.Blocks`."""
    request, reply = gr.Textbox(visible=False), gr.Textbox(visible=False)
    for component in (request, reply):
        component.do_not_save_to_config = True  # A1111 would write what they hold into its ui-config.json
    door = gr.Button(visible=False)

    async def ask(text: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(_threads, answer, actions, text)

    door.click(ask, [request], [reply], api_name="tinv", queue=False, show_progress="hidden")


def answer(actions: Mapping[str, Action], text: str) -> str:
    """Carry out the JSON request {"do": name, ...}; errors become {"error": sentence, "details": traceback}."""
    try:
        asked = json.loads(text)
        action = actions[asked.pop("do")]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return json.dumps({"error": "The page and the extension are of different versions: reload the page."})
    reply = carry_out(action, asked)
    try:
        return json.dumps(reply, allow_nan=False)  # in ASCII: half a surrogate pair, as in a file's name, has no UTF-8
    except ValueError as error:
        log.exception("a reply cannot be sent")
        return json.dumps({"error": f"The reply cannot be sent ({error})."})


def carry_out(action: Action, asked: Mapping[str, Any]) -> Any:
    """What an action returns, or its error in the page's terms. `problems`: what is wrong, by the name of the setting."""
    try:
        inspect.signature(action).bind(**asked)
    except TypeError:
        return {"error": "The page and the extension are of different versions: reload the page."}
    try:
        return action(**asked)
    except BadInput as error:
        return {"problems": [{"option": p.option, "message": p.message} for p in error.problems]}
    except TextualInversionError as error:
        return {"error": str(error)}
    except Exception as error:
        log.exception("an action failed")
        return {"error": f"{type(error).__name__}: {error}", "details": traceback.format_exc()}
