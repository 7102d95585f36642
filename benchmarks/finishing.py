"""Measure what could be done to an embedding after its training, on concepts of the practice model.

    python benchmarks/finishing.py [--concepts coin bird robot knot] [--seeds 2] [any option of `python -m lib_ti train`]

For each run: the share of the loss gap to the model's own word that is recovered on unseen images, by the vectors of the last
step and of the best step, and what becomes of it after

pruned     vectors are dropped whose absence does not raise the validation loss significantly ("strictly": not at all)
averaged   the mean of the last few snapshots, if its validation loss is lower ("always": in any case)
scaled     the vectors times the factor from 0.8 to 1.2 with the lowest validation loss

Validation is that of the training itself; the shares are measured on images that neither has seen.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from lib_ti.embedding.read import read_embedding
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.practice.concepts import CONCEPTS_DIR, PRACTICE_MODEL, Evaluator
from lib_ti.practice.scenes import PRACTICE_WORLD
from lib_ti.runs import execute
from lib_ti.settings.parsing import parse
from lib_ti.training import trainer as trainer_module
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.validation.pictures import ValidationPicture
from lib_ti.training.validation.statistics import paired_difference
from lib_ti.training.validation.validation_set import ValidationSet

WORD = "learned-word"
SNAPSHOTS = 20  # of a run
AVERAGED = (2, 3, 5)  # snapshots
FACTORS = (0.8, 0.9, 1.0, 1.1, 1.2)


Vectors = Mapping[str, torch.Tensor]
"""By text encoder, (n, width)."""
Losses = Callable[[Vectors], torch.Tensor]
"""The loss of each triple of a validation set, (triples,), with vectors of any number."""


def prune(vectors: Vectors, losses: Losses, may_rise: bool) -> Vectors:
    """Drop vectors one by one, the least useful first, until the loss would rise; by `may_rise`, until significantly."""
    reference = losses(vectors)
    while (count := len(vectors["clip_l"])) > 1:
        candidates = [{n: torch.cat([v[:i], v[i + 1 :]]) for n, v in vectors.items()} for i in range(count)]
        changes = [paired_difference(losses(candidate), reference) for candidate in candidates]
        i = min(range(count), key=lambda i: changes[i].mean)
        if changes[i].is_above_zero or (not may_rise and changes[i].mean > 0):
            break
        vectors = candidates[i]
    return vectors


def mean(steps: Sequence[Vectors]) -> Vectors:
    return {name: torch.stack([step[name] for step in steps]).mean(dim=0) for name in steps[0]}


def strength(vectors: Vectors, losses: Losses) -> tuple[float, Vectors]:
    """The factor on the vectors' length with the lowest loss, and the vectors times it."""
    scaled = {factor: {n: v * factor for n, v in vectors.items()} for factor in FACTORS}
    factor = min(FACTORS, key=lambda factor: float(losses(scaled[factor]).nanmean()))
    return factor, scaled[factor]


class Capture(trainer_module.Trainer):
    """A trainer that keeps what is needed to measure vectors after the training."""

    last: ClassVar[dict[str, Any]] = {}

    def _loop(self, model: Any, cache: Any, state: Any, split: Any, pictures: Any, sha256: Any) -> Any:
        loop = super()._loop(model, cache, state, split, pictures, sha256)
        Capture.last = {
            "model": model,
            "loop": loop,
            "pictures": list[ValidationPicture](pictures),
            "triples": split.triples,
        }
        return loop


def validation_losses(vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The captured training's validation losses with vectors of any number."""
    captured, count = Capture.last, len(vectors["clip_l"])
    loader = replace(captured["loop"].dataloader, placeholder=Placeholder(WORD, 0, count))
    triples = ValidationSet.create(captured["pictures"], captured["triples"], loader)
    return triples.losses(captured["model"], vectors, 8)


def train(concept: str, seed: int, options: Mapping[str, str], folder: str) -> execute.RunFolder:
    settings, problems = parse({
        "model": str(PRACTICE_MODEL), "images": str(CONCEPTS_DIR / concept), "name": WORD, "kind": PRACTICE_WORLD.kinds[concept],
        "out": f"{folder}/out", "runs_dir": f"{folder}/runs", "preview_every": "0", "seed": str(seed), **options,
    })  # fmt: skip
    settings = replace(settings, snapshot_every=max(1, settings.steps // SNAPSHOTS))
    run = execute.create_run(preflight(settings, problems))
    execute.execute_run(run)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--concepts", nargs="+", default=["coin", "bird", "robot", "knot"], choices=PRACTICE_WORLD.kinds
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=32, help="unseen ones, of the final measurement")
    arguments, rest = parser.parse_known_args()
    options = dict(zip((name.lstrip("-").replace("-", "_") for name in rest[::2]), rest[1::2], strict=True))
    execute.Trainer = Capture
    model = StableDiffusion.load(open_checkpoint(PRACTICE_MODEL), torch.float32, torch.device("cpu"))
    gains: dict[str, list[float]] = defaultdict(list)
    for concept in arguments.concepts:
        evaluator = Evaluator(model, concept, num_images=arguments.images)
        initial, oracle = evaluator.loss(options.get("init_text", "object")), evaluator.loss(evaluator.oracle)

        def recovered(vectors: Mapping[str, torch.Tensor], text: str = WORD) -> float:
            rows = vectors["clip_l"].detach().float()
            loss = evaluator.loss(text, Placeholder(WORD, 0, len(rows)), rows)  # noqa: B023 - called in this round
            return (initial - loss) / (initial - oracle)  # noqa: B023

        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                run = train(concept, seed, options, folder)
                steps = sorted(run.history().snapshots)
                snapshots = {step: read_embedding(run.snapshot(step)).vectors for step in steps}
                delivered = read_embedding(run.embedding).vectors
                last = {name: v.detach().clone() for name, v in Capture.last["loop"].state.vectors.items()}
            result: dict[str, float] = {"last": recovered(last)}
            base = result["best"] = recovered(delivered)
            for name, may_rise in (("pruned", True), ("pruned, strictly", False)):
                pruned = prune(delivered, validation_losses, may_rise)
                result[f"{name} to {len(pruned['clip_l'])}"] = recovered(pruned)
                gains[name].append(recovered(pruned) - base)
            for count in AVERAGED:
                averaged = mean([last, *(snapshots[step] for step in steps[-count:-1])])
                chosen = min((last, averaged), key=lambda v: float(validation_losses(v).nanmean()))
                gains[f"averaged over {count}"].append(recovered(chosen) - result["last"])
                gains[f"averaged over {count}, always"].append(recovered(averaged) - result["last"])
            factor, scaled = strength(delivered, validation_losses)
            result[f"× {factor:g}"] = recovered(scaled)
            gains["scaled"].append(recovered(scaled) - base)
            print(f"{concept:<9} seed {seed}", *(f"{name} {value:.3f}" for name, value in result.items()), flush=True)
    print()
    for name, values in gains.items():
        print(f"{name:<26} mean {statistics.mean(values):+.4f}  least {min(values):+.4f}  most {max(values):+.4f}")


if __name__ == "__main__":
    main()
