"""What the checks of preflight find."""

from __future__ import annotations

from dataclasses import dataclass, field

from lib_ti.errors import Problem


@dataclass
class Findings:
    """Problems, by option, and warnings. Checks do not use the values of options that have a problem."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add_problem(self, option: str, reason: object) -> None:
        self.problems.append(Problem(option, str(reason)))

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def has_problem(self, *options: str) -> bool:
        """Whether one of the options has a problem."""
        return any(problem.option in options for problem in self.problems)
