"""Measure how well embeddings are learned: a table of the practice model's concepts × seeds.

    python benchmarks/fidelity.py [--concepts coin bird robot knot] [--seeds 3] [any option of `python -m lib_ti train`]

recovered   how much of the difference in loss on unseen images between the initial word and the model's own word for the
            concept the embedding has closed; at 100 % it is as good as the model's own word
recognised  samples of the plain prompt in which the classifier recognizes the concept
concept, colour, ground   of samples with another colour and ground in the prompt, those in which each is right

The first lines of each concept score the initial word and the model's own word ("oracle").
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from lib_ti.embedding.read import read_embedding
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.practice.concepts import CONCEPTS_DIR, KINDS, PRACTICE_MODEL, Evaluator, Score
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.settings.train_settings import parse
from lib_ti.text import option_flag
from lib_ti.training.preflight.preflight import preflight

COLUMNS = (
    f"{'concept':<10}{'word':<10}{'loss':>8}{'recovered':>11}{'recognised':>12}{'concept':>9}{'colour':>8}{'ground':>8}"
    f"{'seconds':>9}"
)


def row(concept: str, word: str, score: Score, recovered: float | None, seconds: float | None) -> str:
    edits = "".join(f"{score.edits[key]:>{width}.0%}" for key, width in (("concept", 9), ("colour", 8), ("ground", 8)))
    return (
        f"{concept:<10}{word:<10}{score.loss:>8.4f}{'' if recovered is None else f'{recovered:.0%}':>11}"
        f"{score.recognised:>12.0%}{edits}{'' if seconds is None else f'{seconds:.0f}':>9}"
    )


def train(concept: str, seed: int, options: dict[str, str]) -> tuple[torch.Tensor, float]:
    """Train on a concept's images; the vectors, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        settings, problems = parse({
            "model": str(PRACTICE_MODEL), "images": str(CONCEPTS_DIR / concept), "name": "learned-word", "kind": KINDS[concept],
            "out": f"{folder}/out", "runs_dir": f"{folder}/runs", "preview_every": "0", "seed": str(seed), **options,
        })  # fmt: skip
        plan = preflight(settings, problems)
        start_time = time.perf_counter()
        run = create_run(plan)
        execute_run(run)
        return read_embedding(run.embedding).vectors["clip_l"], time.perf_counter() - start_time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=["coin", "bird", "robot", "knot"], choices=KINDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10)
    arguments, rest = parser.parse_known_args()
    options = dict(zip((name.lstrip("-").replace("-", "_") for name in rest[::2]), rest[1::2], strict=True))
    model = StableDiffusion.load(open_checkpoint(PRACTICE_MODEL), torch.float32, torch.device("cpu"))
    print(" ".join(f"{option_flag(name)} {value}" for name, value in options.items()) or "default settings")
    print(COLUMNS)
    recovered_shares = []
    for concept in arguments.concepts:
        evaluator = Evaluator(model, concept)
        initial_word = options.get("init_text", "object")
        initial = evaluator.score(initial_word, num_samples=arguments.samples)
        oracle = evaluator.score(evaluator.oracle, num_samples=arguments.samples)
        print(row(concept, initial_word, initial, 0.0, None), flush=True)
        print(row(concept, "oracle", oracle, 1.0, None), flush=True)
        for seed in range(arguments.seeds):
            vectors, seconds = train(concept, seed, options)
            score = evaluator.score(
                "learned-word", Placeholder("learned-word", 0, len(vectors)), vectors, arguments.samples
            )
            recovered = (initial.loss - score.loss) / (initial.loss - oracle.loss)
            recovered_shares.append(recovered)
            print(row(concept, f"seed {seed}", score, recovered, seconds), flush=True)
    print(f"recovered: mean {statistics.mean(recovered_shares):.0%}, least {min(recovered_shares):.0%}")


if __name__ == "__main__":
    main()
