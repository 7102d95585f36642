"""A person is taught only with their permission, which the user states."""

from __future__ import annotations

from lib_ti.settings.person import person_word
from lib_ti.settings.train_settings import TrainSettings
from lib_ti.training.preflight.findings import Findings


def check_consent(settings: TrainSettings, findings: Findings) -> None:
    """Find that nobody was asked."""
    if not settings.consent and (word := person_word(settings)):
        findings.add_problem("consent", f"this teaches a person ({word}): ask them first, then say so with --consent")
