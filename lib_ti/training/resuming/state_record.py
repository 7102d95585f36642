"""The record in a saved state, read and checked without torch: whether a state is whole, and what step it is of.

A state is a safetensors file. Its metadata hold the record, JSON under "state", and the SHA-256 of the whole file, in which the
digest itself counts as zeros. Old states have the record alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_ti.errors import UnusableFile
from lib_ti.formats.safetensors_header import InvalidHeader, parse_header

RECORD, DIGEST = "state", "sha256"
UNSIGNED = "0" * 64
"""What a state is written with in place of its digest, before `sign`."""

_MAX_STEP = 10**9
_MAX_NUMBER = 1e300
_MAX_BYTES = 1 << 30  # far above any state's


def sign(state: bytes) -> bytes:
    """A state with its digest, where `UNSIGNED` stands."""
    position = _digest_position(state, UNSIGNED)
    return state[:position] + hashlib.sha256(state).hexdigest().encode() + state[position + len(UNSIGNED) :]


def read_state_record(path: Path) -> dict[str, Any]:
    """The record of a saved state whose bytes are those that were written. Raises UnusableFile, with one reason."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UnusableFile(path, "the saved state is damaged: it is far too large")
        data = path.read_bytes()
    except OSError as error:
        raise UnusableFile(path, f"the saved state cannot be read ({error.strerror})") from error
    try:
        metadata = parse_header(data).metadata
        _check_digest(data, metadata)
        record = json.loads(metadata[RECORD])
    except InvalidHeader as error:
        raise UnusableFile(path, f"the saved state is damaged: {error}") from error
    except (ValueError, KeyError, RecursionError) as error:
        raise UnusableFile(path, "the saved state is damaged: its record cannot be read") from error
    if reason := _record_problem(record):
        raise UnusableFile(path, f"the saved state is damaged: {reason}")
    return dict(record)


def _check_digest(data: bytes, metadata: Mapping[str, str]) -> None:
    """Raises InvalidHeader if the file has another digest than it says, or none although a version that signs wrote it."""
    if metadata.keys() == {RECORD}:
        return
    digest = metadata.get(DIGEST, "")
    if len(digest) == len(UNSIGNED) and digest != UNSIGNED:
        position = _digest_position(data, digest)
        unsigned = data[:position] + UNSIGNED.encode() + data[position + len(digest) :]
        if position >= 0 and hashlib.sha256(unsigned).hexdigest() == digest:
            return
    raise InvalidHeader("its checksum does not match")


def _digest_position(state: bytes, digest: str) -> int:
    key = f'"{DIGEST}":"'.encode()
    found = state.find(key + digest.encode() + b'"')
    return found + len(key) if found >= 0 else -1


def _record_problem(record: Any) -> str:
    """What is impossible in a record; empty if nothing is."""
    if not isinstance(record, dict):
        return "its record is no object"
    if reason := _point_problem(record):
        return reason
    if reason := _recovery_problem(record.get("recovery", {}), record["step"]):
        return reason
    warned = record.get("warned", [])
    if not isinstance(warned, list) or not all(isinstance(key, str) for key in warned):
        return "its list of warnings is impossible"
    return "" if isinstance(record.get("early_end", ""), str) else "its reason for an early end is no text"


def _recovery_problem(recovery: Any, step: int) -> str:
    """What is impossible about a state's earlier ones, in the record of a state of `step`."""
    if not isinstance(recovery, dict) or recovery.keys() - {"points", "rate_factor", "failures", "failed_step"}:
        return "its record of recoveries is impossible"
    points, factor = recovery.get("points", []), recovery.get("rate_factor", 1.0)
    if not isinstance(points, list) or not _is_number(factor) or not 0 < factor <= 1:
        return "its record of recoveries is impossible"
    if not all(_is_count(recovery.get(key, 0)) for key in ("failures", "failed_step")):
        return "its record of recoveries is impossible"
    for earlier in points:
        if reason := _point_problem(earlier) if isinstance(earlier, dict) else "an earlier state is no object":
            return reason
        if earlier["step"] > step:
            return "an earlier state is of a later step"
    return ""


def _point_problem(record: Mapping[str, Any]) -> str:
    """What is impossible in what a step changes."""
    step = record.get("step")
    if not _is_count(step):
        return f"its step is {json.dumps(step)[:40]}"
    if not _is_number(record.get("smoothed")):
        return "its mean loss is not a number"
    if not _is_count(record.get("shown")) or record["shown"] > step:
        return "the step of its last outputs is impossible"
    if not _is_count(record.get("averaged", 0)) or record.get("averaged", 0) > step:
        return "its number of averaged steps is impossible"
    scaler = record.get("scaler")
    if not isinstance(scaler, dict) or not all(_is_number(scaler.get(key)) for key in ("scale", "quiet", "overflows")):
        return "its loss scale is not a number"
    if scaler["scale"] <= 0 or not _is_count(scaler["quiet"]) or not _is_count(scaler["overflows"]):
        return "its loss scale is impossible"
    validated = record.get("validated", [0])
    if not isinstance(validated, list) or not all(_is_count(s) and s <= step for s in validated) or not validated:
        return "its validated steps are impossible"
    return "" if validated == sorted(set(validated)) else "its validated steps are not in order"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_STEP


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_MAX_NUMBER < value < _MAX_NUMBER  # false for NaN
