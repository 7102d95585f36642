"""Whether the learning rates are such that anything can be learned with them."""

from __future__ import annotations

from lib_ti.model.checkpoint.families import Family
from lib_ti.settings.lr_schedule import InvalidLearningRate, parse_learning_rate
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.findings import Findings
from lib_ti.training.validation.constants import MAX_RATE_RATIO


def check_learning_rates(settings: TrainSettings, family: Family, findings: Findings) -> None:
    """Warn of a rate far above the family's own. Adam moves each value by about the rate in each step.

    The values of token embeddings are about as large as three of the family's "auto" steps.
    """
    for option in ("learning_rate", "learning_rate_2"):
        text = getattr(settings, option)
        if text == "auto" or findings.has_problem(option):
            continue
        try:
            highest = max(stage.rate for stage in parse_learning_rate(text))
        except InvalidLearningRate:
            continue  # reported when the settings were parsed
        if highest > MAX_RATE_RATIO * family.learning_rate:
            findings.warn(
                f"the learning rate {highest:g} is {highest / family.learning_rate:.0f} times the usual "
                f"{family.learning_rate:g}: the first steps will make the vectors far longer than any word's, and the "
                "training will hardly find back"
            )
            return
