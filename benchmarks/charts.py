"""Line and bar charts as PNG pictures, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#000000")
WIDTH, HEIGHT, SCALE = 630, 340, 2
LEFT, TOP, RIGHT, BOTTOM = 52, 44, 220, 50
INK, PALE = "#222222", "#e4e4e4"


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Args:
        label: For the legend; empty for none.
        colour: Of line and dots.
        x: Abscissas.
        y: Ordinates.
        dots: Whether they are dots, or else a line.
        width: Of bars that they are instead, in units of x; 0 for none.
    """

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False
    width: float = 0.0


@dataclass(frozen=True)
class Panel:
    """A chart.

    Args:
        title: Above it.
        x_label: Below it.
        y_label: Above its upper left corner, below the title.
        series: What it shows.
        ticks: Where the axes are marked, `(x, y)`; the first and the last are their ends, up to the margin.
        logarithmic: Which axes are, `(x, y)`.
        margin: Room beyond the first and the last mark, in units of x.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    ticks: tuple[Sequence[float], Sequence[float]]
    logarithmic: tuple[bool, bool] = (False, False)
    margin: float = 0.0

    @property
    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Of both axes."""
        x, y = self.ticks
        return (x[0] - self.margin, x[-1] + self.margin), (y[0], y[-1])

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is, in pixels; outside of the axes at their ends."""
        across, up = (
            _share(value, *ends, log) for value, ends, log in zip((x, y), self.ends, self.logarithmic, strict=True)
        )
        return SCALE * (LEFT + across * (WIDTH - LEFT - RIGHT)), SCALE * (
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        )


def save(path: Path, panels: Sequence[Panel]) -> None:
    """Write the panels side by side."""
    picture = Image.new("RGB", (SCALE * WIDTH * len(panels), SCALE * HEIGHT), "white")
    for i, panel in enumerate(panels):
        picture.paste(_draw(panel), (SCALE * WIDTH * i, 0))
    path.parent.mkdir(exist_ok=True)
    picture.quantize(64).save(path, optimize=True)


def _draw(panel: Panel) -> Image.Image:
    picture = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(SCALE * 12)
    _axes(draw, panel, font)
    for series in panel.series:
        points = [panel.place(x, y) for x, y in zip(series.x, series.y, strict=True)]
        if series.width:
            for x, y in zip(series.x, series.y, strict=True):
                low = panel.place(x - series.width / 2, panel.ticks[1][0])
                draw.rectangle(
                    (low[0], panel.place(x, y)[1], panel.place(x + series.width / 2, y)[0], low[1]), fill=series.colour
                )
        elif series.dots:
            for x, y in points:
                draw.ellipse((x - 3.5 * SCALE, y - 3.5 * SCALE, x + 3.5 * SCALE, y + 3.5 * SCALE), fill=series.colour)
        else:
            draw.line(points, fill=series.colour, width=2 * SCALE, joint="curve")
    _legend(draw, panel, font)
    return picture


def _axes(draw: ImageDraw.ImageDraw, panel: Panel, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> None:
    (x_0, x_1), (y_0, y_1) = panel.ends
    for x in panel.ticks[0]:
        draw.line((panel.place(x, y_0), panel.place(x, y_1)), fill=PALE, width=SCALE)
        at = panel.place(x, y_0)
        draw.text((at[0], at[1] + 5 * SCALE), f"{x:g}", fill=INK, font=font, anchor="mt")
    for y in panel.ticks[1]:
        draw.line((panel.place(x_0, y), panel.place(x_1, y)), fill=PALE, width=SCALE)
        at = panel.place(x_0, y)
        draw.text((at[0] - 6 * SCALE, at[1]), f"{y:g}", fill=INK, font=font, anchor="rm")
    large = ImageFont.load_default(SCALE * 14)
    draw.text((SCALE * LEFT, SCALE * 8), panel.title, fill=INK, font=large, anchor="lt")
    draw.text((SCALE * LEFT, SCALE * 26), panel.y_label, fill=INK, font=font, anchor="lt")
    centre = SCALE * (LEFT + WIDTH - RIGHT) / 2
    draw.text((centre, SCALE * (HEIGHT - 10)), panel.x_label, fill=INK, font=font, anchor="mb")


def _legend(draw: ImageDraw.ImageDraw, panel: Panel, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> None:
    """Labels of series, to the right of the chart."""
    left = SCALE * (WIDTH - RIGHT + 12)
    for i, series in enumerate(series for series in panel.series if series.label):
        y = SCALE * (TOP + 8 + 20 * i)
        draw.line((left, y, left + SCALE * 16, y), fill=series.colour, width=3 * SCALE)
        draw.text((left + SCALE * 22, y), series.label, fill=INK, font=font, anchor="lm")


def _share(value: float, low: float, high: float, logarithmic: bool) -> float:
    if logarithmic:
        value, low, high = (math.log(max(number, 1e-300)) for number in (value, low, high))
    return min(1.0, max(0.0, (value - low) / (high - low)))
