"""The runs of a sweep side by side, as one HTML file: what differs, validation, and pictures of the same prompts and seeds."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from lib_ti import __version__, files
from lib_ti.runs.report import parts, samples
from lib_ti.runs.report.charts import Line, line_chart
from lib_ti.runs.report.markup import Html, element, join, page
from lib_ti.runs.sweeps.grid import describe, option_words
from lib_ti.runs.sweeps.ranking import Best, MeasuredRun, find_best, measure, share_draws
from lib_ti.runs.sweeps.sweep import Sweep

log = logging.getLogger("lib_ti")
COLOURS = 8
PICTURE_SIDE = 192
MAX_PROMPTS = 4  # of previews


def write_comparison(sweep: Sweep) -> Path:
    """Write the comparison of a sweep, up to now, and return its path. Raises OSError."""
    files.atomic_write_bytes(sweep.comparison, comparison_html(sweep).encode("utf-8", "replace"))
    return sweep.comparison


def write_comparison_safely(sweep: Sweep) -> None:
    """Write the comparison; an error is logged, because the trainings are what matters."""
    try:
        write_comparison(sweep)
    except Exception:
        log.exception("the comparison of %s could not be written", sweep.path)


def comparison_html(sweep: Sweep) -> str:
    """The comparison as a page."""
    runs = measure(sweep)
    best = find_best(runs)
    return page(
        f"{sweep.name} – {len(sweep.runs)} trainings compared",
        parts.style(),
        _header(sweep, runs, best),
        _curves(runs, best),
        _table(sweep, runs, best),
        *_pictures(runs, best),
        _failures(runs),
        element("footer", f"Textual Inversion {__version__} · {sweep.path.parent.name}/{sweep.path.name}"),
    )


def _header(sweep: Sweep, runs: Sequence[MeasuredRun], best: Best | None) -> Html:
    done = sum(run.facts.state == "finished" for run in runs)
    state = "finished" if done == len(sweep.runs) else "training"
    date = time.strftime("%d %B %Y, %H:%M", time.localtime(sweep.created))
    tried = "; ".join(f"{option_words(option)}: {', '.join(texts)}" for option, texts in sweep.options.items())
    chip = element("span", f"{done} of {len(sweep.runs)} finished", class_=f"chip {state}")
    lead = [f"The best is {best.run.name}: {best.reason}"] if best else ["Nothing is measured yet."]
    return element(
        "header",
        element("p", f"{len(sweep.runs)} trainings compared · {date}", class_="eyebrow"),
        element("div", element("h1", sweep.name), chip, class_="title"),
        *(element("p", parts.sentence(text), class_="lead") for text in lead),
        element("p", parts.sentence(tried), class_="lead"),
    )


def _curves(runs: Sequence[MeasuredRun], best: Best | None) -> Html:
    def line(i: int, run: MeasuredRun, points: Sequence[tuple[float, float]], dots: bool) -> Line:
        chosen = best is not None and run.run is best.run
        label = describe(run.run.values) + (" – the best" if chosen else "")
        return Line(label, points, i % COLOURS + 1, dots=dots, strong=chosen, dashed=i >= COLOURS)

    validation = [line(i, r, [(v.step, v.loss) for v in r.facts.validations], True) for i, r in enumerate(runs)]
    training = [line(i, r, r.facts.smoothed_losses, False) for i, r in enumerate(runs)]
    norms = [line(i, r, r.facts.norms, False) for i, r in enumerate(runs)]
    note = "Lower is better." if share_draws(runs) else "Not all on the same draws: compare how far each falls."
    charts = [line_chart("Validation loss", validation, note=note)]
    if not charts[0]:
        charts = [line_chart("Training loss, smoothed", training, note="There was no validation.")]
    charts.append(line_chart("Norm of the vectors", norms))
    shown = join(charts)
    return parts.section("Curves", element("div", shown, class_="charts") if shown else "")


def _table(sweep: Sweep, runs: Sequence[MeasuredRun], best: Best | None) -> Html:
    options = list(sweep.options)
    titles = [option_words(option).capitalize() for option in options]
    titles += ["State", "Best step", "Validation loss", "Since step 0", "Norm"]
    head = element("tr", *(element("th", title) for title in titles))
    rows = []
    for run in runs:
        facts, validation = run.facts, run.facts.delivered_validation
        step = parts.best_step(facts)
        cells = [_last_part(option, run.run.values.get(option, "")) for option in options]
        cells += [
            f"{parts.STATE_NAMES.get(facts.state, facts.state)} at {facts.last_step}",
            "" if step is None else str(step),
            parts.number(validation.loss) if validation else "",
            parts.change_text(validation) if validation else "",
            parts.number(facts.norms[-1][1]) if facts.norms else "",
        ]
        chosen = best is not None and run.run is best.run
        rows.append(
            element("tr", *(element("td", cell, class_="short") for cell in cells), class_="best" if chosen else None)
        )
    note = "The settings that differ; the validation is that of the step each run delivered, with its 95 % interval."
    return parts.section("Results", element("div", element("table", head, *rows), class_="scroll"), note=note)


def _pictures(runs: Sequence[MeasuredRun], best: Best | None) -> list[Html]:
    """A section for each test prompt and, without any, for the first previews: the same prompt and seed in every run."""
    histories = {id(run): run.run.folder.history() for run in runs}
    prompts: dict[str, list[Html]] = {}
    for run in runs:
        chosen = best is not None and run.run is best.run
        for index, event in sorted(histories[id(run)].tests.items()):
            title = _general_prompt(run, samples.prompt_text(event))
            prompts.setdefault(title, []).append(_cell(run, run.run.folder.test(index), chosen))
    if not prompts:
        for run in runs:
            chosen, step = best is not None and run.run is best.run, parts.best_step(run.facts)
            for (prompt_index, seed_index), events in list(samples.preview_rows(histories[id(run)]).items())[
                :MAX_PROMPTS
            ]:
                nearest = min(events, key=lambda s: (abs(s - (step if step is not None else max(events))), -s))
                title = f"{_general_prompt(run, samples.prompt_text(events[nearest]))} · seed {events[nearest].data.get('seed')}"
                path = run.run.folder.preview(nearest, prompt_index, seed_index)
                prompts.setdefault(title, []).append(_cell(run, path, chosen))
    return [parts.section(title, element("div", *cells, class_="pictures")) for title, cells in prompts.items()]


def _cell(run: MeasuredRun, path: Path, chosen: bool) -> Html:
    best = run.facts.delivered_validation
    loss = f"validation loss {parts.number(best.loss)}" if best else ""
    return parts.picture(path, PICTURE_SIDE, describe(run.run.values), loss, chosen=chosen)


def _general_prompt(run: MeasuredRun, prompt: str) -> str:
    """The prompt with a general word for the run's own name, so that the same prompts of all runs stand together."""
    return prompt.replace(run.run.name, "[name]")


def _failures(runs: Sequence[MeasuredRun]) -> Html:
    failed = [run for run in runs if run.facts.state == "failed"]
    items = [
        element("li", f"{describe(run.run.values)}: {run.facts.message or 'no reason is known'}") for run in failed
    ]
    return parts.section("Failed", element("ul", *items, class_="warnings") if items else "")


def _last_part(option: str, text: str) -> str:
    return Path(text).name if option == "images" else text
