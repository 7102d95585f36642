"""The extension's section on the host's Settings page, and the values set there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

SECTION = ("textual_inversion_trainer", "Textual Inversion")


@dataclass(frozen=True)
class HostOption:
    """An option on the Settings page. The host stores it under `key`, so `key` never changes."""

    key: str
    default: str | bool
    label: str
    info: str


RUNS_FOLDER = HostOption(
    "tinv_runs_folder",
    "",
    "Folder that trainings are kept in",
    "each training has a folder of its own there, with its settings, previews and snapshots; empty: the folder "
    "textual_inversion beside this WebUI's other data. Trainings in the folder used before stay there, and are no "
    "longer listed",
)
KEEP_SNAPSHOTS = HostOption(
    "tinv_keep_snapshots",
    True,
    "Keep the snapshots of finished trainings",
    "the word as it was at every so many steps, a few kB each; with them you can still go back to an earlier step "
    "when the last one has learned too much",
)
KEEP_IMAGES = HostOption(
    "tinv_keep_pictures",
    True,
    "Keep the copies of your pictures after a training has finished",
    "with them a finished training can be continued or repeated with other settings; without, the pictures are "
    "deleted from its folder when it has finished. Your own files are never touched",
)
NAMES = HostOption(
    "tinv_names",
    "",
    "Names of this WebUI",
    "needed only if you open it over plain http by a name such as paint.example.org and without a password: that name, "
    "several separated by commas. Pages that pretend to be this WebUI by a name of their own are refused otherwise",
)
OPTIONS = (RUNS_FOLDER, KEEP_SNAPSHOTS, KEEP_IMAGES, NAMES)


def add_options(runs_folder_changed: Callable[[], None]) -> None:
    """Add the section to the Settings page; to be called in the host's `ui_settings` callback."""
    shared: Any = import_module("modules.shared")
    for option in OPTIONS:
        hidden = shared.hide_dirs if option is RUNS_FOLDER else None  # a path on the server: --hide-ui-dir-config
        info = shared.OptionInfo(
            option.default,
            option.label,
            component_args=hidden,
            onchange=runs_folder_changed if option is RUNS_FOLDER else None,
            section=SECTION,
        )
        info.category_id = "training"  # not as an argument, which not every host's OptionInfo takes
        if hasattr(info, "info"):
            info = info.info(option.info)
        shared.opts.add_option(option.key, info)


def option_value(option: HostOption) -> Any:
    """The value set on the Settings page; the default if the host does not know the option (yet)."""
    value = getattr(import_module("modules.shared").opts, option.key, None)
    return value if isinstance(value, type(option.default)) else option.default
