"""The work of the commands `inspect` and `convert`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib_ti.cli.exit_codes import OK
from lib_ti.embedding.compatibility import incompatibility
from lib_ti.embedding.inspect import EmbeddingReport, inspect_embedding
from lib_ti.embedding.read import SECOND_FILE_NOTE, join_encoder_files, read_with_second_file
from lib_ti.embedding.summary import base_model
from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import FORMATS, output_paths, save_embedding
from lib_ti.errors import BadInput, Problem
from lib_ti.model.checkpoint.families import encoder_title
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.settings import names
from lib_ti.text import printable


def inspect(file: Path, model: Path | None, name: str | None, as_json: bool) -> int:
    """Print a report on an embedding; with a checkpoint also the vocabulary's nearest tokens. Raises BadInput, UnusableFile."""
    embedding = _read([file], name)
    checkpoint = open_checkpoint(model) if model else None
    if checkpoint and (reason := incompatibility(embedding, checkpoint)):
        raise BadInput([Problem("model", reason)])
    report = inspect_embedding(embedding, checkpoint.token_embeddings() if checkpoint else {})
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        _print_report(report)
    return OK


def _print_report(report: EmbeddingReport) -> None:
    embedding = report.embedding
    widths = " + ".join(map(str, embedding.widths))
    vectors = "1 vector" if embedding.num_vectors == 1 else f"{embedding.num_vectors} vectors"
    name = printable(embedding.name)
    print(f"{name}: {vectors} of width {widths}, family {embedding.family}, for {base_model(embedding.widths)}")
    for encoder, encoder_report in report.encoders.items():
        mean = encoder_report.vocabulary_norm
        note = f" (the vocabulary's mean is {mean:.3f}), and nearest words with their cosines" if mean else ""
        print((f"{encoder}: " if len(report.encoders) > 1 else "") + f"norms{note}")
        for i, vector in enumerate(encoder_report.vectors):
            ratio = f" ({vector.norm / mean:.2f} ×)" if mean else ""
            words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in vector.nearest)
            if not vector.norm:
                words = "nothing but zeros, as no training leaves them"
            print(f"  {i}: norm {vector.norm:.3f}{ratio}  {words}".rstrip())
    if embedding.metadata:
        print("metadata")
    for key, value in sorted(embedding.metadata.items()):
        print(f"  {printable(key)}: {printable(value)}")


@dataclass(frozen=True)
class ConversionOutput:
    """Where a converted embedding goes.

    Attributes:
        target: the file, or a folder for it.
        to: the format, a key of `write.WRITERS`.
        token: the placeholder token in diffusers' files; None: the embedding's name.
        overwrite: replace existing files.
    """

    target: Path
    to: str
    token: str | None
    overwrite: bool


def convert(sources: Sequence[Path], name: str | None, output: ConversionOutput) -> list[Path]:
    """Write an embedding in another format, and return the paths written. Raises BadInput, UnusableFile."""
    if len(sources) > 2:
        raise BadInput([Problem("", f"one embedding is in one file, or in two, but these are {len(sources)}")])
    embedding = _read(sources, name)
    suffix = FORMATS[output.to].suffix
    stem = sources[0].stem if names.name_problem(embedding.name) else embedding.name
    target = output.target / f"{stem}{suffix}" if output.target.is_dir() else output.target
    embedding = _rename(embedding, _output_name(embedding, target, output))
    problems = []
    if not target.name.isprintable():
        problems.append(Problem("", f"the name {target.name!r} holds what cannot be shown; name the file to write"))
    if output.to == "diffusers" and (zeros := [e for e, vectors in embedding.vectors.items() if not vectors.any()]):
        problems.append(
            Problem("", f"all vectors for {encoder_title(zeros[0])} are zero, and would fill a file of their own")
        )
    if target.suffix.lower() != suffix:
        correct_name = target.with_suffix(suffix).name
        problems.append(Problem("", f"a file for {output.to} ends in {suffix}; write to {correct_name}"))
    if not target.absolute().parent.is_dir():
        problems.append(Problem("", f"there is no folder {target.absolute().parent}"))
    if output.token is not None and output.to != "diffusers":
        problems.append(Problem("token", "only diffusers' files hold the word; elsewhere it is the file's name"))
    if output.to == "diffusers" and (embedding.name == "__metadata__" or not embedding.name.strip()):
        problems.append(Problem("token", f"{embedding.name!r} cannot be the word in such a file; choose another"))
    existing = [path for path in output_paths(embedding, output.to, target) if path.exists()]
    if existing and not output.overwrite:
        problems.append(
            Problem("", f"{existing[0]} exists already; choose another name, or replace it with --overwrite")
        )
    if problems:
        raise BadInput(problems)
    try:
        return save_embedding(embedding, output.to, target)
    except OSError as error:
        raise BadInput([Problem("", f"{target} cannot be written ({error.strerror})")]) from error


def _output_name(embedding: Embedding, target: Path, output: ConversionOutput) -> str:
    """The embedding's name in its new file: that of the file, except diffusers' `learned_embeds`, which all are called."""
    if output.to == "diffusers":
        if output.token is not None:
            return output.token
        if target.stem.startswith("learned_embeds"):
            return embedding.metadata.get("token") or embedding.name
    return target.stem


def _rename(embedding: Embedding, name: str) -> Embedding:
    """The embedding with another name, also in its metadata where that has the old one."""
    old_name = embedding.metadata.get("name")
    return replace(
        embedding, name=name, metadata={k: name if v == old_name else v for k, v in embedding.metadata.items()}
    )


def _read(sources: Sequence[Path], name: str | None) -> Embedding:
    """Read an embedding from one file, from two, or from one and its other half beside it."""
    if len(sources) > 1:
        return join_encoder_files(sources[0], sources[1], name)
    embedding, other = read_with_second_file(sources[0], name)
    if other:
        print(printable(f"with {other.name}, {SECOND_FILE_NOTE}"), file=sys.stderr)
    return embedding
