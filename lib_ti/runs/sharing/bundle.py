"""A zip for a colleague: the embedding in every format, pictures with their prompts, and what it may be used for."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lib_ti.embedding.read import read_embedding
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import FORMATS, output_paths
from lib_ti.runs.events import Event
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.sharing.about import About, with_about

MAX_PICTURES = 6
_DATE = (1980, 1, 1, 0, 0, 0)  # zip's earliest, so that the archive does not tell when it was packed
_OTHER_FORMATS = {"a1111": "AUTOMATIC1111", "diffusers": "diffusers"}
"""The folder in the zip by format."""


def example_pictures(folder: RunFolder) -> list[tuple[Path, str]]:
    """The run's test pictures with their prompts, those with the word first; without them its latest preview. At most six."""
    history = folder.history()
    examples = [(folder.test(index), *_prompts(event)) for index, event in sorted(history.tests.items())]
    if latest := history.latest_preview():
        examples.append((folder.preview(*latest), *_prompts(history.previews[latest])))
    name = folder.settings.name
    existing = [example for example in examples if example[0].exists()]
    existing.sort(key=lambda example: name not in example[1] + example[2])  # stable
    return [
        (path, prompt + (f"\nNegative prompt: {negative}" if negative else "")) for path, prompt, negative in existing
    ][:MAX_PICTURES]


def encoded(embedding: Embedding, format_name: str) -> dict[str, bytes]:
    """The embedding's files in a format of `embedding.write.FORMATS`, by their names."""
    suffix, encode = FORMATS[format_name]
    paths = output_paths(embedding, format_name, Path(f"{embedding.name}{suffix}"))
    return {path.name: data for path, data in zip(paths, encode(embedding), strict=True)}


def _prompts(event: Event) -> tuple[str, str]:
    return str(event.data.get("prompt", "")), str(event.data.get("negative_prompt", ""))


def make_bundle(folder: RunFolder, embedding_file: Path, about: About, consent: str = "") -> bytes:
    """The zip. `embedding_file`: the run's result or one of its snapshots; `consent`: a sentence about the people in it.

    Raises UnusableFile, or OSError if a file cannot be read.
    """
    name, examples = folder.settings.name, example_pictures(folder)
    picture = examples[0][0] if examples else None
    entries = {f"{name}.safetensors": with_about(embedding_file.read_bytes(), about, picture)}
    embedding = read_embedding(embedding_file)
    described = replace(embedding, name=name, metadata={**embedding.metadata, **about.metadata()})
    for format_name, subfolder in _OTHER_FORMATS.items():
        entries |= {f"{subfolder}/{file}": data for file, data in encoded(described, format_name).items()}
    if picture is not None:
        entries[f"{name}.preview.png"] = picture.read_bytes()
    entries |= {f"pictures/{i}.png": path.read_bytes() for i, (path, _) in enumerate(examples[1:], 1)}
    entries["README.txt"] = _readme(folder, embedding, about, [prompt for _, prompt in examples], consent).encode()
    return zip_bytes(entries)


def _readme(folder: RunFolder, embedding: Embedding, about: About, prompts: Sequence[str], consent: str) -> str:
    settings, metadata = folder.settings, embedding.metadata
    place = "the negative prompt" if settings.kind == "negative" else "a prompt"
    facts = {
        "Author": about.author,
        "Licence": about.license or "not stated: ask the author before you use it or pass it on",
        "People": consent,
        "Made for": f"{metadata.get('modelspec.architecture', metadata.get('family', ''))}, "
        f"on {metadata.get('checkpoint_name', 'a checkpoint')}",
    }
    parts = [
        settings.name,
        about.description,
        f"Put {settings.name}.safetensors and {settings.name}.preview.png into the embeddings folder of your WebUI, and write "
        f"{settings.name} into {place}. The other folders hold the same word for other programs.",
        "\n".join(f"{title}: {text}" for title, text in facts.items() if text),
        "\n".join(["Prompts of the pictures:", *prompts]) if prompts else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def zip_bytes(entries: dict[str, bytes]) -> bytes:
    """An archive of these files, contents by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()
