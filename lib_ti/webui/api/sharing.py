"""What the page can do to pass a word on: export it, and say who made it and what it may be used for.

about(run)                          -> {"about": {"description", "author", "license"}, "licenses": [text, ...],
                                        "formats": {name: title}}
describe(run, about)                write the texts and a thumbnail into the host's embedding of this run -> {}
share(run, about, step=None)        a zip with everything -> {"file": its name, "data": base64}
export(run, format, step=None)      the embedding in one format -> {"file", "data"}; two files come as a zip
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lib_ti import files
from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.formats.safetensors_header import InvalidHeader, parse_header
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.sharing.about import LICENSES, About, with_about
from lib_ti.webui.api.results import Results, is_from_run
from lib_ti.webui.api.runs_view import RunsView
from lib_ti.webui.hosts.host import Host

FORMAT_TITLES = {
    "safetensors": "Any WebUI (.safetensors)",
    "a1111": "AUTOMATIC1111 (.pt)",
    "diffusers": "diffusers (.safetensors)",
}


class Sharing:
    """The actions about passing on the words of one host."""

    def __init__(self, host: Host, runs: RunsView, results: Results) -> None:
        self._host, self._runs, self._results = host, runs, results

    def actions(self) -> dict[str, Callable[..., Any]]:
        return {action.__name__: action for action in (self.about, self.describe, self.share, self.export)}

    def about(self, run: str) -> dict[str, Any]:
        """What the host's embedding of a run says about itself."""
        try:
            metadata = parse_header(self._installed(self._runs.folder(run)).read_bytes()).metadata
        except (OSError, InvalidHeader):
            metadata = {}
        return {"about": asdict(About.from_metadata(metadata)), "licenses": LICENSES, "formats": FORMAT_TITLES}

    def describe(self, run: str, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write the author's texts into the host's embedding of a run."""
        folder, texts = self._runs.folder(run), About.from_json(about)
        target = self._installed(folder)
        if not is_from_run(target, folder):
            name = folder.settings.name
            raise TextualInversionError(
                f"{name} in the embeddings folder is not of this training; use one of its steps first."
            )
        files.atomic_write_bytes(target, with_about(target.read_bytes(), texts, self._picture(folder)))
        return {}

    def share(self, run: str, about: Mapping[str, Any], step: int | None = None) -> dict[str, str]:
        """Everything about a word in one zip."""
        from lib_ti.runs.sharing.bundle import make_bundle  # and with it torch

        folder, texts = self._runs.folder(run), About.from_json(about)
        data = make_bundle(folder, self._results.embedding_file(folder, step), texts)
        return _reply(f"{folder.settings.name}.zip", data)

    def export(self, run: str, format: str, step: int | None = None) -> dict[str, str]:
        """The embedding in another program's format."""
        from lib_ti.embedding.read import read_embedding
        from lib_ti.runs.sharing.bundle import encoded, zip_bytes

        if format not in FORMAT_TITLES:
            raise BadInput([Problem("format", f"is none of {', '.join(FORMAT_TITLES)}")])
        folder = self._runs.folder(run)
        embedding = read_embedding(self._results.embedding_file(folder, step))
        content = encoded(replace(embedding, name=folder.settings.name), format)
        if len(content) > 1:
            return _reply(f"{folder.settings.name}-{format}.zip", zip_bytes(content))
        return _reply(*next(iter(content.items())))

    def _installed(self, folder: RunFolder) -> Path:
        return self._host.embeddings_dir / f"{folder.path.parent.name}.safetensors"

    def _picture(self, folder: RunFolder) -> Path | None:
        from lib_ti.runs.sharing.bundle import example_pictures

        return next((path for path, _ in example_pictures(folder)), None)


def _reply(file: str, data: bytes) -> dict[str, str]:
    return {"file": file, "data": base64.b64encode(data).decode()}
