"""Whether the learning rates are such that anything can be learned with them."""

from __future__ import annotations

from collections.abc import Sequence

from lib_ti.settings.lr_schedule import InvalidLearningRate, auto_learning_rate, parse_learning_rate
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.findings import Findings
from lib_ti.training.validation.constants import MAX_RATE_RATIO


def check_learning_rates(settings: TrainSettings, widths: Sequence[int], findings: Findings) -> None:
    """Warn of a rate far above "auto". Adam moves each value by about the rate in each step. `widths`: of the text encoders."""
    for option, width in zip(("learning_rate", "learning_rate_2"), (widths[0], widths[-1]), strict=True):
        text = getattr(settings, option)
        if text == "auto" or findings.has_problem(option):
            continue
        try:
            highest = max(stage.rate for stage in parse_learning_rate(text))
        except InvalidLearningRate:
            continue  # reported when the settings were parsed
        usual = auto_learning_rate(width, settings.steps)
        if highest > MAX_RATE_RATIO * usual:
            findings.warn(
                f"the learning rate {highest:g} is {highest / usual:.0f} times the usual {usual:g}: the first steps "
                "will ruin the vectors, and training will hardly recover"
            )
            return
