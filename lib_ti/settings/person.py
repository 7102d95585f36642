"""Whether a word is taught to stand for a person, who has to be asked."""

from __future__ import annotations

import re

from lib_ti.settings.train_settings import TrainSettings

PERSON_WORDS = frozenset(
    re.split(
        r"\s+",
        "person people human man men woman women boy boys girl girls child children kid kids baby babies toddler teenager "
        "guy lady gentleman face portrait selfie headshot me myself friend girlfriend boyfriend wife husband mother father "
        "mom mum dad mommy daddy parent parents grandmother grandfather grandma grandpa sister brother daughter son aunt "
        "uncle cousin nephew niece bride groom celebrity actor actress singer politician president colleague coworker "
        "teacher student neighbor neighbour",
    )
)


def person_word(settings: TrainSettings) -> str | None:
    """The word in the init text or the name that says that a subject is a person; None if none does."""
    if settings.kind != "subject":
        return None
    words = re.findall(r"[^\W\d_]+", f"{settings.init_text} {settings.name}".casefold())
    return next((word for word in words if word in PERSON_WORDS), None)
