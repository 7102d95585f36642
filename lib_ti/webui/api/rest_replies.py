"""Requests and replies of the REST API."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request, Response

from lib_ti.webui.api.bridge import Action, call_action
from lib_ti.webui.api.pools import OTHERS, Busy, Pool
from lib_ti.webui.security.body_limit import announces_more, is_json, too_large

MAX_BODY_BYTES = 100 << 20  # as base64: some thirty photographs


class ErrorReply(Exception):
    """Ends a request with an HTTP status and the body of the reply."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status, self.body = status, body


def call(
    actions: Mapping[str, Action], redact: Callable[[Any], Any], action: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The reply of one of the page's actions. Raises ErrorReply."""
    reply: dict[str, Any] = redact(call_action(actions[action], dict(arguments)))
    if "problems" in reply:
        raise ErrorReply(422, {"problems": reply["problems"]})
    if "error" in reply:
        raise ErrorReply(500 if "details" in reply else 409, {"error": reply["error"]})
    return reply


async def _read_body(request: Request) -> dict[str, Any]:
    """The JSON object in the body. The content type must be JSON: another site's page cannot send it without a preflight."""
    if not is_json(request.scope):
        raise ErrorReply(415, {"error": "Send JSON, with Content-Type: application/json, also without a body."})
    data = bytearray()
    if announces_more(request.scope, MAX_BODY_BYTES):
        raise ErrorReply(413, {"error": too_large(MAX_BODY_BYTES)})
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise ErrorReply(413, {"error": too_large(MAX_BODY_BYTES)})
    if not data:
        return {}
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ErrorReply(400, {"error": "The request is not a JSON object."})
    return body


async def reply(
    handler: Callable[..., dict[str, Any] | Response], request: Request | None = None, pool: Pool = OTHERS
) -> Response:
    """Run a handler in a thread, with the request's body if a request is given; the response is its result or its error."""
    try:
        bodies = [await _read_body(request)] if request else []
        result = await pool.run(functools.partial(handler, *bodies))
        return result if isinstance(result, Response) else json_response(result)
    except Busy as error:
        return json_response({"error": str(error)}, 409)
    except ErrorReply as error:
        return json_response(error.body, error.status)


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    """A response with a JSON object as its body."""
    return Response(
        json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"), status, media_type="application/json"
    )
