"""The command `ui`: serve the web page of the standalone host."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib_ti.cli.arguments import Parser, path_argument
from lib_ti.cli.exit_codes import OK
from lib_ti.errors import BadInput, Problem
from lib_ti.webui.security.authority import Authority
from lib_ti.webui.security.body_limit import MAX_CALL_BYTES
from lib_ti.webui.security.request_check import AllowedHosts
from lib_ti.webui.standalone.temporary_folder import temporary_folder

PORT = 7870
SHUTDOWN_S = 10.0  # for the server to answer what it has begun


def ui(arguments: Sequence[str]) -> int:
    parser = Parser("ui", "Open a web page for training words, and for pictures with them.")
    parser.add_argument("--port", default=str(PORT), metavar="N", help=f"[{PORT}]")
    parser.add_argument(
        "--data-dir", type=path_argument, default=Path(), metavar="DIR",
        help="runs are kept in its textual_inversion/, words in its embeddings/ [the current folder]",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=path_argument, metavar="FILE",
        help="a checkpoint, or a folder of them to choose from [the little model that comes with the project]",
    )  # fmt: skip
    parser.add_argument("--listen", action="store_true", help="let other computers open the page too")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME[:PORT]",
        help="a name or address that the page is opened by, if it is none of this computer's own; give it again for more",
    )  # fmt: skip
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for these before showing anything")
    parser.add_argument("--hide-paths", action="store_true", help="keep this computer's folders from the page")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    values = parser.parse_strict(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise BadInput([Problem("", 'the page needs gradio: pip install "gradio>=3.41.2,<5"')])
    auth = _parse_auth(values.auth)
    if not values.data_dir.is_dir():
        raise BadInput([Problem("data_dir", f"there is no folder {values.data_dir}")])
    allowed_hosts = _parse_hosts(values.allow_host)
    from lib_ti.webui.standalone.checkpoints import PRACTICE_MODEL
    from lib_ti.webui.standalone.host import StandaloneHost

    host = StandaloneHost(values.data_dir, values.model or PRACTICE_MODEL, values.hide_paths)
    address = "0.0.0.0" if values.listen else "127.0.0.1"
    with _bind(address, values.port) as listener:
        allowed = AllowedHosts(allowed_hosts, values.listen)
        with temporary_folder():
            _serve(host, listener, auth, allowed, opens_browser=not values.no_browser)
    return OK


def _serve(
    host: Any, listener: socket.socket, auth: tuple[str, str] | None, allowed: AllowedHosts, opens_browser: bool
) -> None:
    """Serve the page until Ctrl-C."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import uvicorn

    from lib_ti.webui.service import TrainingService
    from lib_ti.webui.standalone import page
    from lib_ti.webui.standalone.server import create_app

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: trainings are saved
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # a closed terminal
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    service = TrainingService(host)
    try:
        app = create_app(service, page.build(host, service), auth, allowed, listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=2, ws_max_size=MAX_CALL_BYTES, proxy_headers=False,
        ))  # fmt: skip
        ended = threading.Event()

        def run() -> None:
            try:
                server.run(sockets=[listener])
            finally:
                ended.set()

        # In a thread uvicorn leaves the signals to us. Not `join`, which takes a thread for ended when a signal interrupts it.
        threading.Thread(target=run, name="textual-inversion-server", daemon=True).start()
        try:
            service.restore_queue()
            _print_address(server, f"http://127.0.0.1:{listener.getsockname()[1]}/", opens_browser)
            while not ended.wait(0.5):  # with a timeout: on Windows Ctrl-C does not interrupt a wait
                pass
        finally:
            server.should_exit = True
            service.refuse_starts()
            ended.wait(SHUTDOWN_S)
    except KeyboardInterrupt:
        pass
    finally:
        with suppress(OSError):  # the terminal is closed
            print("Ending. A running training is saved.", flush=True)
        service.close()


def _print_address(server: Any, url: str, opens_browser: bool) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    print(f"Open {url} in a browser. Ctrl-C ends it.", flush=True)
    if opens_browser and (sys.platform in ("win32", "darwin") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()):
        webbrowser.open(url)  # not without a desktop: a text browser would take over the terminal


def _parse_auth(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise BadInput([Problem("auth", "is not USER:PASSWORD")])
    return user, password


def _parse_hosts(texts: Sequence[str]) -> list[Authority]:
    hosts = {text: Authority.parse(text) for text in texts}
    problems = [
        Problem("allow_host", f"{text!r} is no name: write one such as paint.example.org, without http://")
        for text, host in hosts.items()
        if host is None
    ]
    if problems:
        raise BadInput(problems)
    return [host for host in hosts.values() if host]


def _bind(address: str, port: str) -> socket.socket:
    """Bind the port first, so that a port in use is reported before anything is loaded. Raises BadInput."""
    if not port.isdecimal() or not int(port) < 65536:
        raise BadInput([Problem("port", f"{port!r} is no port; choose a number up to 65535")])
    listener = socket.socket()
    if os.name != "nt":  # on Windows it would let two programs bind the same port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, int(port)))
    except OSError as error:
        listener.close()
        reason = f"port {port} is in use, perhaps by another such page; choose another with --port"
        if isinstance(error, PermissionError):
            reason = f"port {port} is not open to you; choose another with --port"
        raise BadInput([Problem("port", reason)]) from error
    return listener
