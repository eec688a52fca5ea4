"""Draws charts as inline SVG without scripts or requests: curves, run times, stacked bars.

Colours are classes of the page's style sheet, so one drawing serves light and dark. Plain SVG text
keeps the report self-contained and small, and its tests readable.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 30, 46
LABEL_LEFT = 8  # where a row's label is above its bar


@dataclass(frozen=True)
class Line:
    """One curve: points in data units, in the order to join them."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str = "run"
    """Class of the style sheet: ``run`` or ``failed``."""


@dataclass(frozen=True)
class Frame:
    """Maps data units to drawing units."""

    x0: float
    x1: float
    y0: float
    y1: float
    height: float = HEIGHT
    left: float = LEFT

    def x(self, value: float) -> float:
        """Return the horizontal position of a data value."""
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - self.left - RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical position of a data value; larger values are higher up."""
        bottom = self.height - BOTTOM
        return bottom - (value - self.y0) / (self.y1 - self.y0) * (bottom - TOP)


def ticks(low: float, high: float, count: int = 7) -> list[float]:
    """Return about ``count`` round values in an interval, in steps of 1, 2 or 5 times 10^n."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def curve_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    target: float | None = None,
    band: tuple[float, float, str] | None = None,
) -> str:
    """Draw curves with a target line and a band (left end, right end, name), as one ``<svg>``."""
    frame = _frame(lines, target, band)
    parts = [_axes(frame, x_label, y_label)]
    if band is not None:
        left, right = frame.x(band[0]), frame.x(band[1])
        width = max(2.0, right - left)
        parts.append(
            f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{width:.1f}" '
            f'height="{frame.height - TOP - BOTTOM}"><title>{html.escape(band[2])}</title></rect>'
        )
    for line in lines:
        parts.append(_path(line, frame))
    if target is not None:
        y = frame.y(target)
        parts.append(
            f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text class="label" x="{LEFT + 6}" y="{y - 5:.1f}">target {target:g}</text>')
    return _svg(title, "".join(parts), HEIGHT)


def _frame(
    lines: Sequence[Line], target: float | None, band: tuple[float, float, str] | None
) -> Frame:
    xs = [x for line in lines for x, _ in line.points] + list(band[:2] if band else [])
    ys = [y for line in lines for _, y in line.points] + ([target] if target is not None else [])
    x0, x1 = _padded(0.0, max(xs))
    low, high = min(ys), max(ys)
    room = (high - low or abs(high) or 1.0) * 0.08
    return Frame(x0, x1, low - room, high + room)


def _padded(low: float, high: float) -> tuple[float, float]:
    return low, (high if high > low else low + 1.0) * 1.02


def _axes(frame: Frame, x_label: str, y_label: str) -> str:
    bottom = frame.height - BOTTOM
    parts = []
    for value in ticks(frame.y0, frame.y1, 5):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>')
    parts.append(_x_axis(frame, x_label))
    parts.append(f'<text class="label" x="{LEFT}" y="16">{html.escape(y_label)}</text>')
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    )
    return "".join(parts)


def _x_axis(frame: Frame, label: str) -> str:
    bottom = frame.height - BOTTOM
    parts = [
        f'<text class="tick middle" x="{frame.x(value):.1f}" y="{bottom + 16}">{value:g}</text>'
        for value in ticks(frame.x0, frame.x1, 5)
    ]
    at = f'x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{frame.height - 8}"'
    parts.append(f'<text class="label middle" {at}>{html.escape(label)}</text>')
    return "".join(parts)


def _path(line: Line, frame: Frame) -> str:
    if not line.points:
        return ""
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
    label = f"<title>{html.escape(line.label)}</title>"
    last_x, last_y = line.points[-1]
    center = f'cx="{frame.x(last_x):.1f}" cy="{frame.y(last_y):.1f}"'
    dot = f'<circle class="dot {line.style}" {center} r="3"/>'
    curve = f'<polyline class="curve {line.style}" points="{points}"/>'
    return f"<g>{label}{curve}{dot}</g>"


def time_strip(times: Sequence[tuple[str, float, str]], *, title: str, score: float | None) -> str:
    """Draw converged runs (label, minutes, ``kept`` or ``dropped``) as dots on one axis."""
    values = [minutes for _, minutes, _ in times]
    low, high = min(values), max(values)
    room = (high - low or high or 1.0) * 0.08
    height = 130
    frame = Frame(max(0.0, low - room), high + room, 0, 1, height)
    bottom = height - BOTTOM
    parts = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>',
        _x_axis(frame, "minutes"),
    ]
    if score is not None:
        x = frame.x(score)
        parts.append(f'<line class="target" x1="{x:.1f}" x2="{x:.1f}" y1="24" y2="{bottom}"/>')
        parts.append(f'<text class="label middle" x="{x:.1f}" y="18">score</text>')
    for number, (label, minutes, style) in enumerate(sorted(times, key=lambda t: t[1])):
        # A small zigzag keeps dots of equal times apart.
        y = bottom - 12 - (number % 4) * 9
        parts.append(
            f'<circle class="dot {style}" cx="{frame.x(minutes):.1f}" cy="{y}" r="5">'
            f"<title>{html.escape(label)}: {minutes:.3f} minutes</title></circle>"
        )
    return _svg(title, "".join(parts), height)


def stacked_bars(
    rows: Sequence[tuple[str, Sequence[float]]],
    parts: Sequence[tuple[str, int]],
    *,
    title: str,
    unit: str,
    labels_above: bool = False,
) -> str:
    """Draw one horizontal bar per row (label, size of each part).

    ``parts`` are names and colours. Long labels have a line of their own above the bar.
    """
    bar, top, label_height = 20, 6, 18 if labels_above else 0
    step = bar + label_height + 6
    left = LABEL_LEFT if labels_above else LEFT
    height = top + BOTTOM + step * len(rows)
    frame = Frame(0, max(sum(sizes) for _, sizes in rows) * 1.02 or 1.0, 0, 1, height, left)
    drawn = [_x_axis(frame, unit)]
    for number, (label, sizes) in enumerate(rows):
        y, start = top + number * step + label_height, 0.0
        at = f'x="{left}" y="{y - 5}"' if labels_above else f'x="{left - 6}" y="{y + 14}"'
        kind = "label" if labels_above else "tick end"
        drawn.append(f'<text class="{kind}" {at}>{html.escape(label)}</text>')
        for (name, colour), size in zip(parts, sizes, strict=True):
            if not size:
                continue
            x, right = frame.x(start), frame.x(start + size)
            drawn.append(
                f'<rect class="part{colour}" x="{x:.1f}" y="{y}" '
                f'width="{max(0.0, right - x - 1):.1f}" height="{bar}" rx="2">'
                f"<title>{html.escape(name)}: {size:.2f}</title></rect>"
            )
            start += size
    return _svg(title, "".join(drawn), height)


def _svg(title: str, body: str, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{html.escape(title)}">'
        f"{body}</svg>"
    )
