"""The bridge between the page's JavaScript and Python, alike on gradio 3.41 and 4.40.

The page calls `run/tinv`, the HTTP address that gradio gives the event below: it is behind gradio's own login, shows no error
popup when the host restarts, and leaves drawing to the page's JavaScript. Request and reply are one JSON text each.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from lib_ti.errors import BadInput, TextualInversionError
from lib_ti.webui.api.pools import STARTS, Busy, pool_of
from lib_ti.webui.security import exchange
from lib_ti.webui.security.redaction import Redact, unchanged

log = logging.getLogger("lib_ti")

Action = Callable[..., Any]
# render=False, because this module may be imported while a host lays out its page
_JS_ARGUMENT = "js" if "js" in inspect.signature(gr.Button(render=False).click).parameters else "_js"
_VERSION_MISMATCH = "The page and the extension are of different versions: reload the page."


def run_script_on(event: Any, script: str, inputs: list[Any], outputs: list[Any] | None = None) -> None:
    """Let an event run `script`, a JavaScript function of the inputs' values that returns a list of the outputs' values."""
    event(fn=None, inputs=inputs, outputs=outputs or [], **{_JS_ARGUMENT: script})


def add_endpoint(actions: Mapping[str, Action], redact: Redact) -> None:
    """Serve `actions` to the page, by name. To be called within `gr.Blocks`; `redact` as in `handle_request`."""
    request, reply = gr.Textbox(visible=False), gr.Textbox(visible=False)
    for component in (request, reply):
        component.do_not_save_to_config = True  # A1111 would write their values into its ui-config.json
    trigger = gr.Button(visible=False)

    async def handle(text: str) -> str:
        checked = exchange.current()
        if checked is None:  # the server has only just started, or somebody uses another address of gradio's
            raise gr.Error("This answers at the address run/tinv alone.")
        name = _requested_action(text)
        try:
            # not in gradio's threads: all forty of them may be waiting for the lock that a training holds
            reply = await pool_of(name).run(functools.partial(handle_request, actions, text, redact))
        except Busy as error:
            checked.status = 409
            return json.dumps({"error": str(error)})
        if pool_of(name) is STARTS and reply.startswith(('{"error"', '{"problems"')):
            checked.status = 409
        return reply

    trigger.click(handle, [request], [reply], api_name="tinv", queue=False, show_progress="hidden")


def _requested_action(text: str) -> str:
    try:
        return str(json.loads(text)["do"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def handle_request(actions: Mapping[str, Action], text: str, redact: Redact = unchanged) -> str:
    """Reply to the JSON request {"do": name, ...}; an error becomes {"error": sentence, "details": traceback}.

    `redact` takes out of the reply what the page must not see.
    """
    try:
        arguments = json.loads(text)
        action = actions[arguments.pop("do")]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return json.dumps({"error": _VERSION_MISMATCH})
    reply = redact(call_action(action, arguments))
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
