"""What the extension adds to a host: the tab, the settings, the picker, and routes under the host's API.

All of it is made anew at each Reload UI, except the trainer: a training goes on while the pages change.
"""

from __future__ import annotations

import atexit
import functools
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lib_ti.webui.hosts import host_options

if TYPE_CHECKING:
    from lib_ti.webui.hosts.host import Host
    from lib_ti.webui.service import TrainingService

TITLE, TAB = "Textual Inversion", "textual_inversion"


def register() -> None:
    """Tell the host what to call; to be called while it loads its scripts."""
    for kind, function in (("ui_settings", add_settings), ("ui_tabs", make_tab), ("app_started", serve)):
        _call_at(kind, function)


def _call_at(kind: str, function: Any) -> None:
    """Not through the host's `on_KIND` where there is what lies behind it.

    To find out who calls, that one looks at every module loaded: in Forge for a tenth of a second each time.
    """
    callbacks: Any = import_module("modules.script_callbacks")
    try:
        known = callbacks.callback_map[f"callbacks_{kind}"]
        callbacks.add_callback(known, function, category=kind, filename=__file__)
    except (AttributeError, KeyError, TypeError):
        getattr(callbacks, f"on_{kind}")(function)


def detect() -> Host:
    """The WebUI that this process is."""
    if "backend.memory_management" in sys.modules:
        from lib_ti.webui.hosts.forge import Forge

        return Forge()
    from lib_ti.webui.hosts.a1111 import A1111

    return A1111()


@functools.cache
def trainer() -> TrainingService:
    """The one trainer of this process."""
    from lib_ti.webui.service import start

    made = start(detect())
    atexit.register(made.close)
    return made


def add_settings() -> None:
    """Add the section on the Settings page."""
    host_options.add(runs_folder_changed=lambda: close_off(getattr(import_module("modules.shared"), "demo", None)))


def make_tab() -> list[tuple[Any, str, str]]:
    """The tab, as the host wants it: its Blocks, its title, and the id that its element gets after `tab_`."""
    from lib_ti.webui.ui import tab

    return [(tab.build(trainer()), TITLE, TAB)]


def make_picker(is_img2img: bool) -> None:
    """The accordion in txt2img or img2img."""
    from lib_ti.webui.ui import picker

    picker.picker("img2img" if is_img2img else "txt2img")


def serve(demo: Any, app: Any) -> None:
    """What needs the running server; `demo` is None where the host runs without pages (`--nowebui`)."""
    close_off(demo)
    flags = import_module("modules.shared").cmd_opts
    if getattr(flags, "api", False) or getattr(flags, "nowebui", False):
        from lib_ti.webui.api import rest

        rest.add_routes(app, trainer().actions(), getattr(flags, "api_auth", None))


def close_off(demo: Any) -> None:
    """Keep gradio from serving files of ours by their address: whoever may see a picture gets it through the page."""
    if demo is not None:
        demo.blocked_paths = sorted({*(getattr(demo, "blocked_paths", None) or ()), *trainer().blocked()})
