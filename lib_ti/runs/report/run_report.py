"""The report of a run: one HTML file in its folder that needs nothing else, made from what the folder holds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from lib_ti import __version__, files
from lib_ti.data.captions import usage
from lib_ti.model.checkpoint.families import encoder_title
from lib_ti.runs.events import RunHistory
from lib_ti.runs.folder import RunFolder
from lib_ti.runs.report import parts, samples
from lib_ti.runs.report.advice import advice
from lib_ti.runs.report.charts import Line, line_chart
from lib_ti.runs.report.facts import RunFacts, changed_settings, gather_facts
from lib_ti.runs.report.markup import Html, element, join, page

if TYPE_CHECKING:  # it imports torch
    from lib_ti.embedding.inspect import EmbeddingReport, VectorReport

MAX_PICTURES = 12  # of those it learned from
KINDS = {"subject": "A thing or person", "style": "A style", "negative": "What to avoid"}


def write_report(folder: RunFolder) -> Path:
    """Write the report of a run and return its path. Raises UnusableFile or OSError."""
    path = folder.report
    files.atomic_write_bytes(path, report_html(folder, with_nearest_words=True).encode("utf-8", "replace"))
    return path


def report_html(folder: RunFolder, with_nearest_words: bool = False) -> str:
    """The report as a page, up to now. Raises UnusableFile if the run's settings cannot be read.

    `with_nearest_words`: of the checkpoint's vocabulary, which takes torch and the checkpoint's token table.
    """
    history = folder.history()
    facts = gather_facts(folder, history)
    embedding = None
    if with_nearest_words:
        from lib_ti.runs.report.nearest import nearest_words

        embedding = nearest_words(folder, parts.best_step(facts))
    norms = [report.vocabulary_norm for report in embedding.encoders.values()] if embedding else []
    if norms and norms[0]:
        facts = facts.with_vocabulary_norm(norms[0])
    return page(
        f"{facts.settings.name} – training report",
        parts.style(),
        _header(facts, history),
        _tiles(facts),
        samples.test_pictures(folder, history),
        _advice(facts),
        _curves(facts),
        samples.previews(folder, history, parts.best_step(facts)),
        _pictures(folder, facts),
        _nearest(embedding),
        _settings(facts),
        _warnings(facts),
        element("footer", f"Textual Inversion {__version__} · run {folder.path.parent.name}/{folder.path.name}"),
    )


def _header(facts: RunFacts, history: RunHistory) -> Html:
    settings, state = facts.settings, facts.state
    began = min((event.time for event in history.steps.values()), default=history.last.time if history.last else 0.0)
    date = f" · {time.strftime('%d %B %Y, %H:%M', time.localtime(began))}" if began else ""
    title = element(
        "div",
        element("h1", settings.name),
        element("span", parts.STATE_NAMES.get(state, state), class_=f"chip {state}"),
        class_="title",
    )
    lead = [element("p", parts.sentence(text), class_="lead") for text in _lead(facts) if text]
    kind = KINDS.get(settings.kind, settings.kind)
    return element("header", element("p", f"{kind} · {settings.model.stem}{date}", class_="eyebrow"), title, *lead)


def _lead(facts: RunFacts) -> tuple[str, ...]:
    """What came of the run, why it ended, and why its best step is the best, in a sentence each; empty ones are left out."""
    settings, reason = facts.settings, facts.best[1] if facts.best else ""
    if facts.state == "failed":
        return f"Failed after {facts.last_step} of {settings.steps} steps.", facts.message, reason
    if facts.state != "finished":
        return f"{facts.last_step} of {settings.steps} steps are made; nothing is lost, and it can be resumed.", reason
    hint = usage(settings.name, settings.kind)
    if facts.delivered is not None and facts.delivered != facts.last_step:
        return f"The word is that of step {facts.delivered}. {hint}", facts.message, reason
    return f"Trained for {facts.last_step} steps. {hint}", facts.message, reason


def _tiles(facts: RunFacts) -> Html:
    settings, best = facts.settings, facts.best_validation
    values = [(f"{facts.last_step}", f"of {settings.steps} steps", f"batch {settings.effective_batch_size}")]
    if (step := parts.best_step(facts)) is not None:
        values.append((f"{step}", "best step", ""))
    if best and (change := parts.change_text(best)):
        first, _, interval = change.partition(" ± ")
        values.append((first, "validation loss", f"± {interval}, since step 0" if interval else "since step 0"))
    elif best:
        values.append((parts.number(best.loss), "validation loss", ""))
    elif facts.smoothed_losses:
        values.append((parts.number(facts.smoothed_losses[-1][1]), "training loss", "smoothed"))
    if facts.norms:
        compared = f"vocabulary {parts.number(facts.vocabulary_norm)}" if facts.vocabulary_norm else ""
        values.append((parts.number(facts.norms[-1][1]), "norm of the vectors", compared))
    values.append((f"{settings.vectors}", "vector" if settings.vectors == 1 else "vectors", ""))
    values.append((f"{facts.picture_count}", "picture" if facts.picture_count == 1 else "pictures", ""))
    if facts.seconds >= 1:
        values.append((parts.duration(facts.seconds), "of training", ""))
    return parts.tiles(values)


def _advice(facts: RunFacts) -> Html:
    found = [element("div", element("h3", a.title), element("p", a.reason)) for a in advice(facts)]
    if not found and facts.state == "finished":
        text = f"{usage(facts.settings.name, facts.settings.kind)} Try several seeds: one picture says little."
        found = [element("div", element("h3", "Nothing stands out: use it"), element("p", text))]
    return parts.section("What to try next", element("div", *found, class_="advice") if found else "")


def _curves(facts: RunFacts) -> Html:
    best = parts.best_step(facts)
    mark = (float(best), f"best: {best}") if best is not None else None
    validation = Line(
        "validation loss, with its 95 % interval" if any(v.interval for v in facts.validations) else "validation loss",
        [(v.step, v.loss) for v in facts.validations],
        interval=[v.interval or 0.0 for v in facts.validations] if any(v.interval for v in facts.validations) else (),
        dots=True,
    )
    charts = [
        line_chart("Validation loss", [validation], mark, "On draws that were not trained on: lower is better."),
        line_chart(
            "Training loss",
            [Line("each step", facts.losses, 2, faint=True), Line("smoothed", facts.smoothed_losses, 2)],
            mark,
            "Noisy by nature: each step sees other noise.",
        ),
        line_chart("Norm", [Line("mean length of the vectors", facts.norms, 3)], mark, _norm_note(facts)),
        line_chart(
            "Similarity",
            [Line("mean cosine similarity to the start", facts.similarities, 4)],
            mark,
            "1: still what it began as; 0: unrelated to it.",
        ),
    ]
    shown = join(charts)
    return parts.section("Curves", element("div", shown, class_="charts") if shown else "")


def _norm_note(facts: RunFacts) -> str:
    if facts.vocabulary_norm:
        return f"The checkpoint's own words have {parts.number(facts.vocabulary_norm)}."
    return "Long vectors drown out other words."


def _pictures(folder: RunFolder, facts: RunFacts) -> Html:
    paths = sorted(path for path in folder.images.glob("*.png") if not path.name.endswith(".mask.png"))
    shown = join(
        parts.picture(path, 128, f"{i}, with caption" if path.with_suffix(".txt").exists() else f"{i}")
        for i, path in enumerate(paths[:MAX_PICTURES], 1)
    )
    more = f"The first {MAX_PICTURES} of {len(paths)}." if len(paths) > MAX_PICTURES else ""
    return parts.section("Learned from", element("div", shown, class_="pictures small") if shown else "", note=more)


def _nearest(report: EmbeddingReport | None) -> Html:
    if report is None:
        return Html("")
    tables = []
    for encoder, vectors in report.encoders.items():
        if len(report.encoders) > 1:
            tables.append(element("h3", encoder_title(encoder)))
        head = element("tr", *(element("th", title) for title in ("Vector", "Norm", "Nearest words")))
        rows = [_vector_row(i, vector) for i, vector in enumerate(vectors.vectors, 1)]
        tables.append(element("div", element("table", head, *rows), class_="scroll"))
    note = "What each vector is most like, by cosine similarity. Low values are usual: it means something no word says."
    return parts.section("Nearest words of the vocabulary", *tables, note=note)


def _vector_row(index: int, vector: VectorReport) -> Html:
    words = (element("span", word, element("small", f"{cosine:.2f}"), class_="word") for word, cosine in vector.nearest)
    cells = (element("td", str(index)), element("td", parts.number(vector.norm), class_="short"), element("td", *words))
    return element("tr", *cells)


def _settings(facts: RunFacts) -> Html:
    pairs = [
        element("div", element("dt", parts.option_title(name)), element("dd", parts.option_value(value)))
        for name, value in changed_settings(facts.settings).items()
    ]
    return parts.section("Settings", element("dl", *pairs, class_="settings"), note="Those that are not the default.")


def _warnings(facts: RunFacts) -> Html:
    items = [element("li", parts.sentence(warning)) for warning in facts.warnings]
    return parts.section("Warnings", element("ul", *items, class_="warnings") if items else "")
