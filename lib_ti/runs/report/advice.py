"""What to try next, in plain words: each rule looks at the figures of a run and either says nothing or one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from lib_ti.runs.report.facts import RunFacts, Validation

MIN_PICTURES = 4
MAX_GROWTH = 25.0
"""Times the vocabulary's mean norm, or the start's, above which vectors overpower the other words of a prompt."""
SAME_PICTURE = 0.02
"""`Looks.difference` up to which two training pictures count as the same."""
SAME_TEST = 0.06
"""`Looks.difference` up to which a test picture ignored what its prompt asked for."""
REDDER = 0.03
"""How much redder the picture of another colour must be than the plain one."""
HARDLY_FALLEN = 0.01
"""Share of the validation loss at the start; less of a fall, and within its interval, is none."""
STILL_FALLING = 0.04
"""Share of the whole fall of the validation loss that its last quarter must bring for more steps to pay."""
RISEN = 0.1
"""Share of the whole fall by which the validation loss must have risen since its best to speak of over-training."""


@dataclass(frozen=True)
class Advice:
    """One thing to try. `title`: what to do; `reason`: the figures that suggest it, and what it should change."""

    title: str
    reason: str


def _still_falling(facts: RunFacts) -> Advice | None:
    fall, last = _fall(facts), _last(facts)
    if fall is None or last is None or facts.state == "failed":
        return None
    earlier = [v for v in facts.validations if v.step <= facts.last_step * 0.75]
    if not earlier or min(facts.validations, key=lambda v: v.loss) != last:
        return None
    recent = earlier[-1].loss - last.loss
    if recent < STILL_FALLING * fall:
        return None
    steps = facts.settings.steps
    return Advice(
        f"More steps: {2 * steps} instead of {steps}",
        f"The word was still improving: the last quarter brought {recent / fall:.0%} of the gain.",
    )


def _over_trained(facts: RunFacts) -> Advice | None:
    fall, last, best = _fall(facts), _last(facts), facts.best_validation
    if fall is None or last is None or best is None or not best.step < 0.8 * last.step:
        return None
    if last.loss - best.loss < RISEN * fall:
        return None
    kept = f" Step {facts.delivered} is in use." if facts.delivered is not None else ""
    return Advice(
        f"Fewer steps, about {best.step}, or more pictures",
        f"The validation loss was lowest at step {best.step} and has risen since: the word began to memorise the pictures "
        f"instead of what they share.{kept}",
    )


def _nothing_learned(facts: RunFacts) -> Advice | None:
    best = facts.best_validation
    if best is None or best.change is None or best.interval is None or len(facts.validations) < 3:
        return None
    if best.change + best.interval < 0 or best.change < -HARDLY_FALLEN * (best.loss - best.change):
        return None  # measured on few draws, a fall can be real and yet within the interval
    return Advice(
        "Another start word, or a higher learning rate",
        "The validation loss hardly fell. Choose a word closer to what the pictures show (this training began with "
        f"“{facts.settings.init_text}”), and check that they all show one thing.",
    )


def _hardly_moved(facts: RunFacts) -> Advice | None:
    if not facts.similarities or facts.last_step < 50 or facts.similarities[-1][1] < 0.999:
        return None
    return Advice(
        f"A higher learning rate than {facts.settings.learning_rate}",
        f"The vectors have hardly changed (similarity {facts.similarities[-1][1]:.4f}).",
    )


def _norm_too_large(facts: RunFacts) -> Advice | None:
    if not facts.norms:
        return None
    norm, start = facts.norms[-1][1], facts.norms[0][1]
    reference = facts.vocabulary_norm or start
    if not reference or norm < MAX_GROWTH * reference:
        return None
    compared_to = "the checkpoint's own words have" if facts.vocabulary_norm else "they began with"
    return Advice(
        f"A lower learning rate than {facts.settings.learning_rate}, or fewer steps",
        f"The vectors are too long (norm {norm:.3g}, where {compared_to} {reference:.3g}), so the word drowns out the rest "
        "of a prompt.",
    )


def _not_a_number(facts: RunFacts) -> Advice | None:
    texts = [facts.message, *facts.warnings]
    if not any("not a number" in text or "no numbers" in text for text in texts):
        return None
    if facts.settings.precision == "fp16":
        return Advice("Precision fp32 or bf16", "Numbers overflowed in fp16, which has the smallest range.")
    return Advice(
        f"A lower learning rate than {facts.settings.learning_rate}",
        "Some losses or vectors were not numbers. Smaller steps avoid that.",
    )


def _few_pictures(facts: RunFacts) -> Advice | None:
    if not 0 < facts.picture_count < MIN_PICTURES:
        return None
    what = {"style": "motifs", "negative": "failures"}.get(facts.settings.kind, "places, light and distances")
    only = "is one picture" if facts.picture_count == 1 else f"are {facts.picture_count} pictures"
    return Advice(
        "More pictures: five to ten",
        f"There {only}. Add others that vary in {what}: what varies, prompts can change.",
    )


def _same_pictures(facts: RunFacts) -> Advice | None:
    pairs = [
        (first.number, second.number)
        for first, second in combinations(facts.pictures, 2)
        if first.looks.difference(second.looks) <= SAME_PICTURE
        and all(abs(a - b) < 8 for a, b in zip(first.looks.border, second.looks.border, strict=True))
    ]
    if not pairs:
        return None
    first, second = pairs[0]
    more = f", and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
    return Advice(
        f"Remove a double: picture {first} or {second}",
        f"Pictures {first} and {second} look the same{more}, so what they show counts twice.",
    )


def _same_ground(facts: RunFacts) -> Advice | None:
    if len(facts.pictures) < 3 or facts.settings.kind != "subject" or any(p.captioned for p in facts.pictures):
        return None
    borders = [picture.looks.border for picture in facts.pictures]
    spread = max(max(channel) - min(channel) for channel in zip(*borders, strict=True))
    if spread > 24:
        return None
    return Advice(
        "Different backgrounds, or captions that name them",
        "All pictures have nearly the same colour at their edges, so the word learns the background too.",
    )


def _small_pictures(facts: RunFacts) -> Advice | None:
    resolution = facts.settings.resolution
    if not (facts.pictures and resolution):
        return None
    small = [p for p in facts.pictures if min(p.looks.size) < 0.75 * resolution]
    if len(small) * 3 < len(facts.pictures):
        return None
    return Advice(
        f"Larger pictures, or a resolution of {max(64, min(min(p.looks.size) for p in small) // 8 * 8)}",
        f"{len(small)} of {len(facts.pictures)} pictures are smaller than the {resolution} pixels they were trained at, and "
        "enlarging blurs them.",
    )


def _colour_ignored(facts: RunFacts) -> Advice | None:
    plain, red = facts.tests.get("plain"), facts.tests.get("another colour")
    if plain is None or red is None or red.redness >= plain.redness + REDDER:
        return None
    return Advice(
        "Captions that name the colours",
        "Asked for red, the test picture is hardly redder: the word holds its colour. What captions name stays free; fewer "
        "vectors or steps help too.",
    )


def _place_ignored(facts: RunFacts) -> Advice | None:
    plain, elsewhere = facts.tests.get("plain"), facts.tests.get("elsewhere")
    if plain is None or elsewhere is None or plain.difference(elsewhere) > SAME_TEST:
        return None
    return Advice(
        "Captions that name the surroundings, or fewer steps",
        "In another place the test picture looks the same: the word overrules the rest of the prompt.",
    )


def _low_memory(facts: RunFacts) -> Advice | None:
    if facts.settings.memory != "low":
        return None
    return Advice(
        "Another card, or a lower resolution",
        "The model was kept in 8 bits to save memory, which changes the result a little.",
    )


def _no_validation(facts: RunFacts) -> Advice | None:
    if facts.validations or facts.state != "finished":
        return None
    return Advice(
        "Train with validation",
        "The validation loss was not measured, so the best step is unknown.",
    )


RULES: tuple[Callable[[RunFacts], Advice | None], ...] = (
    _not_a_number, _norm_too_large, _nothing_learned, _hardly_moved, _over_trained, _still_falling, _few_pictures,
    _same_pictures, _same_ground, _small_pictures, _colour_ignored, _place_ignored, _low_memory, _no_validation,
)  # fmt: skip
"""In the order of their weight."""


def advice(facts: RunFacts) -> list[Advice]:
    """What to try next, the weightiest first; empty if the figures suggest nothing."""
    return [found for rule in RULES if (found := rule(facts))]


def _last(facts: RunFacts) -> Validation | None:
    return facts.validations[-1] if facts.validations else None


def _fall(facts: RunFacts) -> float | None:
    """How far the validation loss fell from its first to its lowest value; None if it was not measured, or never fell."""
    if len(facts.validations) < 3:
        return None
    fall = facts.validations[0].loss - min(v.loss for v in facts.validations)
    return fall if fall > 0 else None
