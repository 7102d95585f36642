"""The command `suggest`: which words a training could start from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lib_ti.cli.arguments import Parser, add_settings, raw_settings
from lib_ti.cli.control import say, stop_on_signals
from lib_ti.cli.exit_codes import OK, STOPPED
from lib_ti.settings.option import RawValue
from lib_ti.settings.parsing import parse
from lib_ti.text import printable

NAME = "suggested-word"  # a training has a name; here it matters to nobody


def suggest(arguments: Sequence[str]) -> int:
    parser = Parser(
        "suggest",
        "Rank words, and your own comma-separated phrases in --init-text, by how well they describe the pictures.",
    )
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print the state as lines of JSON")
    values, argument_problems = parser.parse_collecting(arguments)
    with tempfile.TemporaryDirectory(prefix="lib_ti-") as folder:
        implied: dict[str, RawValue] = {
            "name": NAME,
            "out": str(Path(folder, "out")),
            "runs_dir": str(Path(folder, "runs")),
            "preview_every": "0",
        }
        settings, problems = parse({**raw_settings(values), **implied})
        from lib_ti.training.encode_images import Stopped
        from lib_ti.training.preflight.preflight import preflight
        from lib_ti.training.start import suggest as search

        plan = preflight(settings, argument_problems + problems)
        if not values.json:
            say(printable(f"In {settings.images}: {plan.pictures}"))

        def report(done: int, total: int) -> None:
            if values.json:
                print(json.dumps({"state": "running", "done": done, "total": total}), flush=True)

        try:
            with stop_on_signals() as stop:
                words, vectors = search.suggest(plan, report, stop.is_set)
        except Stopped:
            return STOPPED
    if values.json:
        result = {"state": "done", "words": [asdict(word) for word in words], "vectors": vectors}
        print(json.dumps(result, ensure_ascii=False), flush=True)
        return OK
    for word in words:
        print(f"{word.text:<24} {word.gain:+.1%}")
    if vectors:
        print(f"The best start has {vectors} of them, one for each vector.")
    return OK
