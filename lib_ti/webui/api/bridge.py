"""The bridge between the page's JavaScript and Python, alike on gradio 3.41 and 4.40.

The page calls `run/tinv`, the HTTP address that gradio gives the event below: it is behind gradio's own login, shows no error
popup when the host restarts, and leaves drawing to the page's JavaScript. Request and reply are one JSON text each.
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

# Our own pool: all forty of gradio's threads may be waiting for the lock that a training holds.
_threads = ThreadPoolExecutor(16, thread_name_prefix="textual-inversion")

log = logging.getLogger("lib_ti")

Action = Callable[..., Any]
# render=False, because this module may be imported while a host lays out its page
_JS_ARGUMENT = "js" if "js" in inspect.signature(gr.Button(render=False).click).parameters else "_js"
_VERSION_MISMATCH = "The page and the extension are of different versions: reload the page."


def run_script_on(event: Any, script: str, inputs: list[Any], outputs: list[Any] | None = None) -> None:
    """Let an event run `script`, a JavaScript function of the inputs' values that returns a list of the outputs' values."""
    event(fn=None, inputs=inputs, outputs=outputs or [], **{_JS_ARGUMENT: script})


def add_endpoint(actions: Mapping[str, Action]) -> None:
    """Serve `actions` to the page, by name. To be called within `gr.Blocks`."""
    request, reply = gr.Textbox(visible=False), gr.Textbox(visible=False)
    for component in (request, reply):
        component.do_not_save_to_config = True  # A1111 would write their values into its ui-config.json
    trigger = gr.Button(visible=False)

    async def handle(text: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(_threads, handle_request, actions, text)

    trigger.click(handle, [request], [reply], api_name="tinv", queue=False, show_progress="hidden")


def handle_request(actions: Mapping[str, Action], text: str) -> str:
    """Reply to the JSON request {"do": name, ...}; an error becomes {"error": sentence, "details": traceback}."""
    try:
        arguments = json.loads(text)
        action = actions[arguments.pop("do")]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return json.dumps({"error": _VERSION_MISMATCH})
    reply = call_action(action, arguments)
    try:
        return json.dumps(reply, allow_nan=False)  # ASCII, because a lone surrogate, as in a file name, has no UTF-8
    except ValueError as error:
        log.exception("a reply cannot be sent")
        return json.dumps({"error": f"The reply cannot be sent ({error})."})


def call_action(action: Action, arguments: Mapping[str, Any]) -> Any:
    """The result of an action, or {"error": ...}, or {"problems": [{"option", "message"}]} for a BadInput."""
    try:
        inspect.signature(action).bind(**arguments)
    except TypeError:
        return {"error": _VERSION_MISMATCH}
    try:
        return action(**arguments)
    except BadInput as error:
        return {"problems": [{"option": p.option, "message": p.message} for p in error.problems]}
    except TextualInversionError as error:
        return {"error": str(error)}
    except Exception as error:
        log.exception("an action failed")
        return {"error": f"{type(error).__name__}: {error}", "details": traceback.format_exc()}
