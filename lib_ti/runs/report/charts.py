"""Line charts as inline SVG: no script, colours from the page's style, so that they follow its light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lib_ti.runs.report.markup import Html, element

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 30
MAX_POINTS = 300  # of a line; of more, an evenly spaced selection is drawn


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: what it shows, for the legend; a line without one is not in it.
        points: (step, value), in order.
        colour: which of the page's line colours, from 1.
        interval: half the height of the band around each point; empty: no band.
        faint: drawn thin and pale, behind the others.
        dots: mark each point.
        strong: drawn thick, before the others.
        dashed: tells it from another line of the same colour.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 1
    interval: Sequence[float] = field(default=())
    faint: bool = False
    dots: bool = False
    strong: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class _Axes:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM), 1)


def line_chart(title: str, lines: Sequence[Line], mark: tuple[float, str] | None = None, note: str = "") -> Html:
    """A chart of lines over steps. `mark`: a step to point out, and what it is. Empty without two points to connect."""
    lines = [_finite(line) for line in lines]
    lines = [line for line in lines if len(line.points) > 1]
    if not lines:
        return Html("")
    axes = _axes(lines)
    drawn = [*_grid(axes), *(_band(line, axes) for line in lines if line.interval)]
    drawn += [_polyline(line, axes) for line in sorted(lines, key=lambda line: line.strong - line.faint)]
    drawn += [dot for line in lines if line.dots for dot in _dots(line, axes)]
    if mark and axes.x_low <= mark[0] <= axes.x_high:
        drawn += _mark(*mark, axes)
    svg = element("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title, class_="chart")
    legend = element("div", *(_legend_entry(line) for line in lines if line.label), class_="legend")
    caption = element("figcaption", element("b", title), *([element("span", note)] if note else []))
    return element("figure", caption, svg, legend)


def _finite(line: Line) -> Line:
    """The line without values that cannot be drawn, and thinned out to `MAX_POINTS`."""
    indices = [i for i, (x, y) in enumerate(line.points) if math.isfinite(x) and math.isfinite(y) and abs(y) < 1e30]
    if len(indices) > MAX_POINTS:
        indices = [indices[i * (len(indices) - 1) // (MAX_POINTS - 1)] for i in range(MAX_POINTS)]
    interval = [line.interval[i] for i in indices] if line.interval else ()
    return replace(line, points=[line.points[i] for i in indices], interval=interval)


def _axes(lines: Sequence[Line]) -> _Axes:
    """The range of the steps; of the values, what is not faint decides, because single losses jump."""
    xs = [x for line in lines for x, _ in line.points]
    solid = [line for line in lines if not line.faint] or lines
    ys = [y for line in solid for _, y in line.points]
    for line in solid:
        ys += [y + sign * half for (_, y), half in zip(line.points, line.interval, strict=False) for sign in (-1, 1)]
    low, high = min(ys), max(ys)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return _Axes(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, low - margin, high + margin)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _grid(axes: _Axes) -> list[Html]:
    parts = []
    for value in _ticks(axes.y_low, axes.y_high, 4):
        y = axes.y(value)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(element("text", f"{value:.6g}", x=LEFT - 8, y=y + 4, text_anchor="end"))
    for value in _ticks(axes.x_low, axes.x_high, 5):
        parts.append(element("text", f"{value:g}", x=axes.x(value), y=HEIGHT - 10, text_anchor="middle"))
    return parts


def _band(line: Line, axes: _Axes) -> Html:
    pairs = list(zip(line.points, line.interval, strict=True))
    upper = [f"{axes.x(x)},{axes.y(y + half)}" for (x, y), half in pairs]
    lower = [f"{axes.x(x)},{axes.y(y - half)}" for (x, y), half in reversed(pairs)]
    return element("polygon", points=" ".join([*upper, *lower]), class_=f"band c{line.colour}")


def _polyline(line: Line, axes: _Axes) -> Html:
    # a faint line's outliers end at the frame
    points = [(x, min(max(y, axes.y_low), axes.y_high)) for x, y in line.points]
    classes = " ".join(
        ["line", f"c{line.colour}", *(name for name in ("faint", "strong", "dashed") if getattr(line, name))]
    )
    return element("polyline", points=" ".join(f"{axes.x(x)},{axes.y(y)}" for x, y in points), class_=classes)


def _dots(line: Line, axes: _Axes) -> list[Html]:
    return [
        element(
            "circle", element("title", f"step {x:g}: {y:.5g}"), cx=axes.x(x), cy=axes.y(y), r=3,
            class_=f"dot c{line.colour}",
        )
        for x, y in line.points
    ]  # fmt: skip


def _mark(step: float, label: str, axes: _Axes) -> list[Html]:
    x = axes.x(step)
    at_the_right = x > (LEFT + WIDTH - RIGHT) / 2
    return [
        element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"),
        element("text", label, x=x + (-6 if at_the_right else 6), y=TOP + 10,
                text_anchor="end" if at_the_right else "start", class_="marklabel"),
    ]  # fmt: skip


def _legend_entry(line: Line) -> Html:
    classes = f"c{line.colour}{' dashed' if line.dashed else ''}"
    return element("span", element("i", class_=classes), element("b" if line.strong else "span", line.label))
