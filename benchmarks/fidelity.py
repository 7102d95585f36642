"""Measure how well embeddings are learned: a table of the practice model's concepts × seeds.

    python benchmarks/fidelity.py [--concepts coin bird robot knot] [--seeds 3] [any option of `python -m lib_ti train`]
    python benchmarks/fidelity.py --second-world FOLDER [...]    with the model that `benchmarks.second_world.make` made

recovered   how much of the difference in loss on unseen images between "object" and the model's own word for the concept the
            embedding has closed; at 100 % it is as good as the model's own word
recognised  samples of the plain prompt in which the classifier recognizes the concept
concept, colour, ground   of samples with another colour and ground in the prompt, those in which each is right

The first lines of each concept score "object" and the model's own word ("oracle").
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from benchmarks.second_world.world import SECOND_WORLD
from lib_ti.embedding.read import read_embedding
from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.prompt.placeholder import Placeholder
from lib_ti.practice.classifier import load_classifier
from lib_ti.practice.concepts import CONCEPTS_DIR, PRACTICE_MODEL, Evaluator, Score, write_concept_images
from lib_ti.practice.scenes import PRACTICE_WORLD
from lib_ti.practice.world import World
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.settings.parsing import parse
from lib_ti.text import option_flag
from lib_ti.training.preflight.preflight import preflight

BASELINE = "object"
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


@dataclass(frozen=True)
class Subject:
    """A model, the world that it knows, and the folder of its concepts' images."""

    world: World
    model: Path
    concepts_dir: Path
    judge: Path

    @classmethod
    def second(cls, folder: Path) -> Subject:
        """The second world's model, in the folder that it was made in."""
        if not (folder / "concepts").is_dir():
            write_concept_images(folder / "concepts", SECOND_WORLD)
        return cls(SECOND_WORLD, folder / PRACTICE_MODEL.name, folder / "concepts", folder / "judge.safetensors")


PRACTICE = Subject(PRACTICE_WORLD, PRACTICE_MODEL, CONCEPTS_DIR, PRACTICE_MODEL.with_name("judge.safetensors"))


def train(subject: Subject, concept: str, seed: int, options: dict[str, str]) -> tuple[torch.Tensor, float]:
    """Train on a concept's images; the vectors, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        settings, problems = parse({
            "model": str(subject.model), "images": str(subject.concepts_dir / concept), "name": "learned-word",
            "kind": subject.world.kinds[concept], "out": f"{folder}/out", "runs_dir": f"{folder}/runs", "preview_every": "0",
            "seed": str(seed), **options,
        })  # fmt: skip
        plan = preflight(settings, problems)
        start_time = time.perf_counter()
        run = create_run(plan)
        execute_run(run)
        return read_embedding(run.embedding).vectors["clip_l"], time.perf_counter() - start_time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--second-world", type=Path, metavar="FOLDER")
    parser.add_argument("--concepts", nargs="+", help="all things without a name, unless given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10, help="images per score; 0: measure the loss alone")
    arguments, rest = parser.parse_known_args()
    subject = Subject.second(arguments.second_world) if arguments.second_world else PRACTICE
    options = dict(zip((name.lstrip("-").replace("-", "_") for name in rest[::2]), rest[1::2], strict=True))
    model = StableDiffusion.load(open_checkpoint(subject.model), torch.float32, torch.device("cpu"))
    print(" ".join(f"{option_flag(name)} {value}" for name, value in options.items()) or "default settings")
    print(COLUMNS)
    recovered_shares = []
    classifier = load_classifier(subject.judge, subject.world)
    for concept in arguments.concepts or subject.world.unnamed:
        evaluator = Evaluator(model, concept, world=subject.world, classifier=classifier)
        initial = evaluator.score(BASELINE, num_samples=arguments.samples)
        oracle = evaluator.score(evaluator.oracle, num_samples=arguments.samples)
        print(row(concept, BASELINE, initial, 0.0, None), flush=True)
        print(row(concept, "oracle", oracle, 1.0, None), flush=True)
        for seed in range(arguments.seeds):
            vectors, seconds = train(subject, concept, seed, options)
            score = evaluator.score(
                "learned-word", Placeholder("learned-word", 0, len(vectors)), vectors, arguments.samples
            )
            recovered = (initial.loss - score.loss) / (initial.loss - oracle.loss)
            recovered_shares.append(recovered)
            print(row(concept, f"seed {seed}", score, recovered, seconds), flush=True)
    print(f"recovered: mean {statistics.mean(recovered_shares):.0%}, least {min(recovered_shares):.0%}")


if __name__ == "__main__":
    main()
