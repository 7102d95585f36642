"""What the extension adds to a host: the tab, the settings, the picker, and routes under the host's API."""

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

TITLE, TAB_ID = "Textual Inversion", "textual_inversion"

HOST_ATTRIBUTE = "textual_inversion_extension"
"""The attribute of the host's `modules.shared` that holds the extension.

"Reload UI" executes the extension's script again and rebuilds the pages, but leaves `modules.shared` as it is. A training goes
on meanwhile, so the object that owns it has to be found again by the next execution of the script.
"""


def get_extension() -> Extension:
    """The extension of this host; created by the first execution of the extension's script."""
    shared: Any = import_module("modules.shared")
    extension = getattr(shared, HOST_ATTRIBUTE, None)
    if not isinstance(extension, Extension):
        extension = Extension()
        setattr(shared, HOST_ATTRIBUTE, extension)
    return extension


def detect_host() -> Host:
    """The adapter for the WebUI that runs in this process."""
    if "backend.memory_management" in sys.modules:
        from lib_ti.webui.hosts.forge import Forge

        return Forge()
    from lib_ti.webui.hosts.a1111 import A1111

    return A1111()


class Extension:
    """The extension in a host's process. Owns the training service, which is created when it is first needed."""

    @functools.cached_property
    def service(self) -> TrainingService:
        from lib_ti.webui.service import TrainingService

        service = TrainingService(detect_host())
        atexit.register(service.close)
        return service

    def register(self) -> None:
        """Register the callbacks; to be called each time the host loads its scripts."""
        for kind, callback in (
            ("ui_settings", self.add_settings), ("ui_tabs", self.build_tab), ("app_started", self.on_app_started),
        ):  # fmt: skip
            _register_callback(kind, callback)

    def add_settings(self) -> None:
        """Add the section to the Settings page."""

        def block_new_folder() -> None:
            self.block_private_paths(getattr(import_module("modules.shared"), "demo", None))

        host_options.add_options(runs_folder_changed=block_new_folder)

    def build_tab(self) -> list[tuple[Any, str, str]]:
        """The result of the `ui_tabs` callback: the tab's Blocks, its title, and its element id without `tab_`."""
        from lib_ti.webui.ui import tab

        service = self.service
        return [(tab.build(service.actions(), service.host.hides_paths, service.redact), TITLE, TAB_ID)]

    def build_picker(self, is_img2img: bool) -> None:
        """Build the accordion in txt2img or img2img."""
        from lib_ti.webui.ui import picker

        picker.build("img2img" if is_img2img else "txt2img", lambda: self.service.embedding_index.entries())

    def on_app_started(self, demo: Any, app: Any) -> None:
        """Set up the running server; `demo` is None if the host runs without pages (`--nowebui`)."""
        from lib_ti.webui.hosts import access
        from lib_ti.webui.security import route_guard

        self.block_private_paths(demo)
        route_guard.install(app, access.names, self.service.uploads)
        flags = import_module("modules.shared").cmd_opts
        if getattr(flags, "api", False) or getattr(flags, "nowebui", False):
            from lib_ti.webui.api import rest

            rest.add_routes(app, self.service, getattr(flags, "api_auth", None))
        self.service.restore_queue()

    def block_private_paths(self, demo: Any) -> None:
        """Keep gradio from serving our files by their paths: whoever may see an image gets it through the page."""
        if demo is not None:
            blocked_paths = getattr(demo, "blocked_paths", None) or ()
            demo.blocked_paths = sorted({*blocked_paths, *self.service.private_paths()})


def _register_callback(kind: str, callback: Any) -> None:
    """Register a callback, if possible without the host's `on_KIND`.

    To find out who calls it, `on_KIND` inspects every loaded module, which takes a tenth of a second each time in Forge.
    """
    callbacks: Any = import_module("modules.script_callbacks")
    try:
        registered = callbacks.callback_map[f"callbacks_{kind}"]
        callbacks.add_callback(registered, callback, category=kind, filename=__file__)
    except (AttributeError, KeyError, TypeError):
        getattr(callbacks, f"on_{kind}")(callback)
