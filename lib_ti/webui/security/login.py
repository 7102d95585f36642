"""The login of the standalone server: nothing but what shows it is answered before, and guessing is slowed down.

gradio checks the login on most of its routes; on some it does not (/cancel, /reset, /heartbeat, /upload_progress, /monitoring).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, MutableMapping
from typing import Any

from lib_ti.webui.security.authority import header
from lib_ti.webui.security.replies import Receive, Scope, Send, refuse
from lib_ti.webui.security.throttle import Throttle

OPEN_PATHS = frozenset(
    {"", "/", "/login", "/login_check", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"}
)
OPEN_FOLDERS = ("/assets/", "/static/", "/tinv-static/")


def password_check(user: str, password: str) -> Callable[[str, str], bool]:
    """What gradio asks whether a login is right; the time taken reveals nothing about either part."""

    def check(given_user: str, given_password: str) -> bool:
        return secrets.compare_digest(given_user.encode(), user.encode()) & secrets.compare_digest(
            given_password.encode(), password.encode()
        )

    return check


class LoginGate:
    """Decides what a client that has not logged in may see."""

    def __init__(self, app: Any) -> None:
        """`app`: gradio's, which knows who is logged in."""
        self._app = app
        self._throttle = Throttle()

    async def is_open_to(self, scope: Scope) -> bool:
        """Whether the request is answered to this client."""
        path = scope["path"].rstrip("/") or "/"
        if scope["type"] == "http" and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)):
            return True
        return await self._is_logged_in(scope)

    async def log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a login to gradio, unless this client has guessed too often."""
        client = (scope.get("client") or ("",))[0]
        if wait := self._throttle.begin(client):
            seconds = int(wait) + 1
            message = f"Too many wrong passwords; try again in {seconds} s."
            await refuse(scope, receive, send, 429, message, retry_after_s=seconds)
            return

        async def send_and_count(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._throttle.succeed(client)
            await send(message)

        await self._app(scope, receive, send_and_count)

    async def _is_logged_in(self, scope: Scope) -> bool:
        """What gradio says at /login_check to the cookies of this request."""
        statuses = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        cookie = header(scope, "cookie")
        question = {
            **scope, "type": "http", "method": "GET", "path": "/login_check", "raw_path": b"/login_check",
            "query_string": b"", "http_version": "1.1", "root_path": "",
            "scheme": "http", "headers": [(b"host", b"localhost"), *([(b"cookie", cookie.encode("latin-1"))] if cookie else [])],
        }  # fmt: skip
        question.pop("state", None)
        await self._app(question, receive, send)
        return statuses == [200]
