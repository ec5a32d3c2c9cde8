"""Charts as SVG strings: values over rounds, and paths through a plane.

Colours, line widths and fonts come from the page's stylesheet, so that one chart serves light, dark and paper. Labels
sit on the lines instead of in a legend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = [
    "MINUS",
    "TONES",
    "Axis",
    "Guide",
    "Mark",
    "Series",
    "Trail",
    "line_chart",
    "number",
    "plane",
    "spans_decades",
]

CHARACTER = 6.2
BOLD = 8.0
LINE = 13.0
MINUS = "\N{MINUS SIGN}"
MOST_TITLED = 240
TONES = "abcdefgh"
"""Colours, which the stylesheet has under these names."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Series:
    """A line.

    Args:
        x: Positions, ascending.
        y: Values; None or a value that is not finite leaves a gap.
        label: Name at the end of the line, before the last value; empty where the chart has one line.
        tone: Colour: one of TONES.
        spread: Half the height of a band around the line, at every position.
        dots: Mark every value.
    """

    x: Sequence[float]
    y: Sequence[float | None]
    label: str = ""
    tone: str = "a"
    spread: Sequence[float | None] = ()
    dots: bool = False


@dataclass(frozen=True)
class Guide:
    """A dashed reference line at a value: horizontal in a line chart, vertical in a plane."""

    value: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A labelled point in a plane.

    Args:
        x: Position.
        y: Position.
        label: Empty for none.
        kind: "start", "end", "reference", "point" or "front".
        tone: Colour: one of TONES; empty leaves it to the kind.
        spread: Half the lengths of a cross through the point, in x and y.
    """

    x: float
    y: float
    label: str
    kind: str = "point"
    tone: str = ""
    spread: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Trail:
    """A path through a plane, from pale to dark as time goes by.

    Args:
        points: (x, y) in order of time, drawn as dots.
        titles: What each dot says when pointed at.
        line: (x, y) of the line through them, for instance a running mean.
        tone: Colour: one of TONES.
        timeless: The points have no order; all are equally dark.
    """

    points: Sequence[tuple[float, float]]
    titles: Sequence[str] = ()
    line: Sequence[tuple[float, float]] = ()
    tone: str = "a"
    timeless: bool = False


@dataclass(frozen=True)
class Axis:
    """Maps values in [low, high] to pixels in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """At most about `count` round values."""
        return _log_ticks(self.low, self.high, count) if self.log else _ticks(self.low, self.high, count)


def number(value: float) -> str:
    """A number for people: three significant digits, thousands grouped, a true minus sign."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        digits, _, power = f"{value:.2g}".partition("e")
        text = f"{digits}e{int(power)}" if power else digits
    elif value == round(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return text.replace("-", MINUS)


def spans_decades(values: Iterable[float | None]) -> bool:
    """Whether a few values dwarf the others, so that only a logarithmic axis shows both."""
    positive = sorted(v for v in values if v is not None and math.isfinite(v) and v > 0)
    return len(positive) > 2 and positive[-1] > 20 * positive[len(positive) // 2]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    guides: Sequence[Guide] = (),
    limits: tuple[float | None, float | None] = (None, None),
    log: bool = False,
    x_label: str = "round",
    x_ticks: Sequence[tuple[float, str]] = (),
    size: tuple[int, int] = (360, 196),
) -> str:
    """Lines over rounds, labelled at their ends.

    Args:
        title: What the chart shows, for those who cannot see it.
        series: The lines.
        guides: Dashed horizontal lines.
        limits: Values that the vertical axis must at least include; None leaves it to the data.
        log: Logarithmic vertical axis; values that are not positive are left out.
        x_label: Name of the horizontal axis.
        x_ticks: Positions on the horizontal axis and what is written there; none: round numbers.
        size: Width and height in units of the view box.
    """
    width, height = size
    ends = [_end_label(s, log) for s in series]
    labels = max([CHARACTER * len(x_label) + 12, *(BOLD * len(text) for _, text in ends)])
    # Lines go to the right, however long the labels at their ends are.
    right = max(width / 4, width - 8 - labels)
    guides = [g for g in guides if _shown(g.value, log)]
    heights = [v for s in series for v in _extent(s, log)] + [g.value for g in guides]
    heights += [v for v in limits if v is not None and _shown(v, log)]
    x = _axis([float(v) for s in series for v in s.x], 42, right, pad=0)
    y = _axis(heights, height - 26, 14, log=log)
    body = [_y_grid(y, 42, right), _x_ticks(x, height - 26, x_label, width - 4, x_ticks)]
    body += [_guide(g, guides, series, x, y) for g in guides]
    body += [_band(s, x, y) for s in series if s.spread and not log]
    body += [_line(s, x, y, log) for s in series]
    body += _end_labels(ends, series, y, right)
    if log:
        body.append(f'<text class="tick" x="{width - 4}" y="10" text-anchor="end">log scale</text>')
    return _svg(title, body, size)


def plane(
    title: str,
    trails: Sequence[Trail],
    *,
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    guides: Sequence[Guide] = (),
    log_x: bool = False,
    size: tuple[int, int] = (360, 290),
) -> str:
    """Paths through a plane of two measures.

    Args:
        title: What the chart shows, for those who cannot see it.
        trails: One or several paths.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        marks: Labelled points.
        guides: Dashed vertical lines; a label may have several lines.
        log_x: Logarithmic horizontal axis; points that are not positive are left out.
        size: Width and height in units of the view box.
    """
    width, height = size
    marks = [m for m in marks if _shown(m.x, log_x) and _shown(m.y, False)]
    guides = [g for g in guides if _shown(g.value, log_x)]
    drawn = [p for t in trails for p in (*t.points, *t.line)]
    xs = [p[0] for p in drawn] + [m.x + side * m.spread[0] for m in marks for side in (-1, 0, 1)]
    xs = [value for value in xs if _shown(value, log_x)]
    ys = [p[1] for p in drawn] + [m.y + side * m.spread[1] for m in marks for side in (-1, 1)]
    x = _axis(xs + [g.value for g in guides], 46, width - 10, log=log_x)
    y = _axis(ys, height - 40, 26)
    body = [_y_grid(y, 46, width - 10), _x_ticks(x, height - 40, "", width)]
    body.append(f'<text class="name" x="4" y="12">{escape(y_label)}</text>')
    body.append(f'<text class="name" x="{width - 10}" y="{height - 6}" text-anchor="end">{escape(x_label)}</text>')
    for guide in guides:
        at = x.place(guide.value)
        body.append(f'<line class="guide" x1="{at:.1f}" x2="{at:.1f}" y1="{y.end}" y2="{y.start}"/>')
    dots = [(x.place(a), y.place(b)) for t in trails for a, b in t.points if _shown(a, log_x)]
    body += [_trail(t, x, y, log_x) for t in trails]
    body += [_mark(m, x, y) for m in marks]
    body += _plane_labels(marks, guides, x, y, dots)
    return _svg(title, body, size)


def _svg(title: str, body: Sequence[str], size: tuple[int, int]) -> str:
    name = escape(title)
    return (
        f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{name}">'
        f"<title>{name}</title>{''.join(body)}</svg>"
    )


def _shown(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _axis(values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> Axis:
    low, high = (min(values), max(values)) if values else (1.0, 2.0)
    if log:
        room = (high / low) ** pad if high > low else 2.0
        return Axis(low / room, high * room, start, end, log=True)
    if high - low < 1e-9 * max(abs(high), 1e-3):
        return Axis(low - max(abs(low) * 0.1, 1e-3), high + max(abs(high) * 0.1, 1e-3), start, end)
    room = (high - low) * pad
    return Axis(low - room, high + room, start, end)


def _ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(powers) >= 2:
        return [10.0**p for p in powers[:: max(1, math.ceil(len(powers) / count))]]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    return [m * 10.0**p for p in decades for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def _tick_text(value: float) -> str:
    return f"{value:,.10g}".replace("-", MINUS)


def _y_grid(y: Axis, left: float, right: float) -> str:
    rows = []
    for value in y.ticks(5):
        at = y.place(value)
        rows.append(f'<line class="grid" x1="{left}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        rows.append(f'<text class="tick" x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{_tick_text(value)}</text>')
    return "".join(rows)


def _x_ticks(x: Axis, bottom: float, label: str, right: float, named: Sequence[tuple[float, str]] = ()) -> str:
    parts = [f'<line class="axis" x1="{x.start}" x2="{x.end:.1f}" y1="{bottom}" y2="{bottom}"/>']
    # What has a name of its own is counted: half a round is none.
    plain = [
        (value, _tick_text(value)) for value in x.ticks(5 if not x.log else 4) if not label or value == round(value)
    ]
    for value, text in named or plain:
        at = x.place(value)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(text)}</text>')
    if label:
        parts.append(f'<text class="tick" x="{right}" y="{bottom + 17}" text-anchor="end">{escape(label)}</text>')
    return "".join(parts)


def _extent(series: Series, log: bool) -> list[float]:
    values = []
    spread = series.spread if series.spread and not log else [0.0] * len(series.y)
    for value, half in zip(series.y, spread, strict=True):
        if value is not None and _shown(value, log):
            room = half if half is not None and math.isfinite(half) else 0.0
            values += [value - room, value + room]
    return values


def _runs(series: Series, log: bool) -> list[list[int]]:
    """Indices of stretches without a gap."""
    runs: list[list[int]] = [[]]
    for i, value in enumerate(series.y):
        if _shown(value, log):
            runs[-1].append(i)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _line(series: Series, x: Axis, y: Axis, log: bool) -> str:
    parts = []
    for run in _runs(series, log):
        points = [(x.place(series.x[i]), y.place(series.y[i] or 0.0)) for i in run]
        if len(points) > 1:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(f'<polyline class="line {series.tone}" points="{path}"/>')
        else:
            parts.append(f'<circle class="dot {series.tone}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2"/>')
        if run[-1] == _runs(series, log)[-1][-1]:
            parts.append(f'<circle class="dot {series.tone}" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="3"/>')
        for a, b in points if series.dots else ():
            parts.append(f'<circle class="dot {series.tone}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>')
    return "".join(parts)


def _band(series: Series, x: Axis, y: Axis) -> str:
    parts = []
    for run in _runs(series, False):
        edges = []
        for i in run:
            value, half = series.y[i] or 0.0, series.spread[i] or 0.0
            edges.append((x.place(series.x[i]), y.place(value + half), y.place(value - half)))
        outline = [(a, top) for a, top, _ in edges] + [(a, bottom) for a, _, bottom in reversed(edges)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in outline)
        parts.append(f'<polygon class="band {series.tone}" points="{path}"/>')
    return "".join(parts)


def _end_label(series: Series, log: bool) -> tuple[float | None, str]:
    shown = [v for v in series.y if v is not None and _shown(v, log)]
    if not shown:
        return None, series.label
    return shown[-1], f"{series.label} {number(shown[-1])}".strip()


def _end_labels(ends: Sequence[tuple[float | None, str]], series: Sequence[Series], y: Axis, left: float) -> list[str]:
    """Labels right of the last points, moved apart where they would touch, and up where they would sink too low."""
    rows = sorted(
        (y.place(value), text, s.tone) for (value, text), s in zip(ends, series, strict=True) if value is not None
    )
    heights: list[float] = []
    for at, _, _ in rows:
        heights.append(max(at, heights[-1] + LINE if heights else -math.inf))
    for i in reversed(range(len(rows))):
        heights[i] = min(heights[i], heights[i + 1] - LINE if i + 1 < len(rows) else y.start - 2)
    return [
        f'<text class="value {tone}" x="{left + 7:.1f}" y="{at + 4:.1f}">{escape(text)}</text>'
        for at, (_, text, tone) in zip(heights, rows, strict=True)
    ]


def _guide(guide: Guide, guides: Sequence[Guide], series: Sequence[Series], x: Axis, y: Axis) -> str:
    """A dashed line, labelled above or below either end, where the label hides the least."""
    at, wide = y.place(guide.value), CHARACTER * len(guide.label)
    points = [
        (x.place(a), y.place(b))
        for s in series
        for a, b in zip(s.x, s.y, strict=True)
        if b is not None and _shown(b, y.log)
    ]
    others = [y.place(g.value) for g in guides if g is not guide]
    choices = []
    for low, high, baseline in ((at - LINE - 2, at, at - 4), (at, at + LINE + 2, at + 12)):
        for left, anchor in ((x.start + 3, "start"), (x.end - 3 - wide, "end")):
            hidden = sum(left - 4 <= a <= left + wide + 4 and low - 2 <= b <= high + 2 for a, b in points)
            crossed = sum(low <= other <= high for other in others)
            outside = low < y.end - LINE or high > y.start
            choices.append((hidden + 20 * crossed + 50 * outside, baseline, anchor))
    _, baseline, anchor = min(choices, key=lambda choice: choice[0])
    return (
        f'<line class="guide" x1="{x.start}" x2="{x.end:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="note" x="{x.start + 3 if anchor == "start" else x.end - 3:.1f}" y="{baseline:.1f}" '
        f'text-anchor="{anchor}">{escape(guide.label)}</text>'
    )


def _trail(trail: Trail, x: Axis, y: Axis, log_x: bool) -> str:
    parts = []
    line = [(x.place(a), y.place(b)) for a, b in trail.line if _shown(a, log_x)]
    if len(line) > 1:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in line)
        parts.append(f'<polyline class="path {trail.tone}" points="{path}"/>')
    count = len(trail.points)
    titles = trail.titles if count <= MOST_TITLED else ()
    for i, (a, b) in enumerate(trail.points):
        if not _shown(a, log_x):
            continue
        title = f"<title>{escape(titles[i])}</title>" if titles else ""
        opacity = 0.45 if trail.timeless else 0.15 + 0.6 * i / max(1, count - 1)
        parts.append(
            f'<circle class="dot {trail.tone}" cx="{x.place(a):.1f}" cy="{y.place(b):.1f}" r="2.2" '
            f'opacity="{opacity:.2f}">{title}</circle>'
        )
    return "".join(parts)


def _mark(mark: Mark, x: Axis, y: Axis) -> str:
    a, b = x.place(mark.x), y.place(mark.y)
    if mark.kind == "reference":
        shape = f"M{a:.1f},{b - 6:.1f}l6,6l-6,6l-6,-6z"
        return f'<path class="mark reference" d="{shape}"/>'
    return _cross(mark, x, y) + f'<circle class="mark {mark.kind} {mark.tone}" cx="{a:.1f}" cy="{b:.1f}" r="5"/>'


def _cross(mark: Mark, x: Axis, y: Axis) -> str:
    """How uncertain a point is, cut off at the edge of a logarithmic axis."""
    low, high = (mark.x + side * mark.spread[0] for side in (-1, 1))
    a, b = x.place(mark.x), y.place(mark.y)
    left, right = x.place(low) if _shown(low, x.log) else x.start, x.place(high)
    bottom, top = (y.place(mark.y + side * mark.spread[1]) for side in (-1, 1))
    if not any(mark.spread):
        return ""
    return f'<path class="cross {mark.tone}" d="M{left:.1f},{b:.1f}H{right:.1f}M{a:.1f},{bottom:.1f}V{top:.1f}"/>'


def _plane_labels(
    marks: Sequence[Mark], guides: Sequence[Guide], x: Axis, y: Axis, dots: Sequence[tuple[float, float]]
) -> list[str]:
    """Labels of marks and guides, each where it covers the least."""
    frame = (x.start, y.end, x.end, y.start)
    spots = [(x.place(m.x), y.place(m.y)) for m in marks]
    taken: list[Box] = [(a - 6, b - 6, a + 6, b + 6) for a, b in spots]
    labels = []
    for mark, (a, b) in zip(marks, spots, strict=True):
        if not mark.label:
            continue
        # As wide as in a wide font, for labels must not cover each other in any.
        wide = BOLD * len(mark.label)
        half = wide / 2
        around = [(a + 9, b + dy, a - 9) for dy in (0, -LINE, LINE)]
        around += [(a - half, b + dy, a + half) for dy in (-16, 16)]
        # Where points crowd, lines further off are left; the colour says whose they are.
        around += [(a + 9, b + k * LINE, a - 9) for k in (-2, 2, -3, 3, -4, 4)]
        labels.append(_label(mark.label, wide, f"value {mark.kind} {mark.tone}", around, frame, taken, dots))
    for guide in guides:
        lines = guide.label.split("\n")
        at, wide, half = x.place(guide.value), CHARACTER * max(map(len, lines)), LINE * len(lines) / 2
        heights = [y.start - half - 4, y.end + half + 2, *(y.place(y.low + (y.high - y.low) * s) for s in (0.25, 0.5))]
        labels.append(_label(guide.label, wide, "note", [(at + 5, h, at - 5) for h in heights], frame, taken, dots))
    return labels


def _label(
    text: str,
    wide: float,
    style: str,
    places: Sequence[tuple[float, float, float]],
    frame: Box,
    taken: list[Box],
    dots: Sequence[tuple[float, float]],
) -> str:
    """The cheapest place, given as (x to write right of, middle height, x to write left of); notes it as taken."""
    lines = text.split("\n")
    high = LINE * len(lines)
    choices: list[tuple[float, Box, str]] = []
    for right, middle, left in places:
        for a, anchor in ((right, "start"), (left - wide, "end")):
            box = (a, middle - high / 2, a + wide, middle + high / 2)
            outside = max(0.0, frame[0] - box[0]) + max(0.0, box[2] - frame[2])
            outside += max(0.0, frame[1] - 8 - box[1]) + max(0.0, box[3] - frame[3])
            covered = sum(_overlap(box, other) for other in taken)
            hidden = sum(box[0] - 3 <= p <= box[2] + 3 and box[1] <= q <= box[3] for p, q in dots)
            choices.append((50 * outside + covered + 4 * hidden, box, anchor))
    _, box, anchor = min(choices, key=lambda choice: choice[0])
    taken.append(box)
    at = box[0] if anchor == "start" else box[2]
    spans = "".join(
        f'<tspan x="{at:.1f}" y="{box[1] + LINE * (i + 1) - 3:.1f}">{escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    return f'<text class="{style}" text-anchor="{anchor}">{spans}</text>'


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
