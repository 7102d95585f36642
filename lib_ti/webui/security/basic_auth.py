"""The password of the REST calls, which is that of the WebUI's own API."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request
from fastapi.security import HTTPBasic

from lib_ti.webui.security.throttle import Throttle


def basic_auth(api_auth: str) -> Callable[[Request], Coroutine[Any, Any, None]]:
    """A dependency that lets pass who knows an account of `api_auth`, "user:password,user:password"; half an account is none."""
    parts = [tuple(part.strip().encode() for part in entry.partition(":")[::2]) for entry in api_auth.split(",")]
    accounts = [(user, password) for user, password in parts if user and password]
    basic, throttle = HTTPBasic(auto_error=False), Throttle()

    async def check(request: Request) -> None:
        credentials = await basic(request)
        client = request.client.host if request.client else ""
        if credentials and (wait := throttle.begin(client)):
            raise HTTPException(429, "Too many wrong passwords", {"Retry-After": str(int(wait) + 1)})
        user, password = (credentials.username.encode(), credentials.password.encode()) if credentials else (b"", b"")
        # every account is compared in full, so that the time taken reveals nothing about either part
        matches = [secrets.compare_digest(user, u) & secrets.compare_digest(password, p) for u, p in accounts]
        if not any(matches):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})
        throttle.succeed(client)

    return check
