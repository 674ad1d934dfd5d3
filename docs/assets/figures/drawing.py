"""Figures as SVG: panels with coordinates, in colours that are readable on white and on dark pages.

A figure is 560 units wide, so that its text of 16 units is readable on a telephone. Numbers are rounded to a tenth.
"""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

WIDTH, TEXT = 560, 16
LATENT, CODEWORD, GRADIENT, GREY = "#2a86db", "#e07b16", "#d6336c", "#7a8296"
Point = Sequence[float] | np.ndarray


class Figure:
    """Elements of an SVG of ``WIDTH`` units; ``title`` is its text for screen readers."""

    def __init__(self, height: float, title: str):
        self.height, self.title, self.elements = height, title, list[str]()

    def add(self, tag: str, text: str = "", **attributes: float | str) -> None:
        named = "".join(f' {name.replace("_", "-")}="{number(value)}"' for name, value in attributes.items())
        self.elements.append(f"<{tag}{named}>{escape(text)}</{tag}>" if text else f"<{tag}{named}/>")

    def text(
        self, x: float, y: float, text: str, colour: str = GREY, anchor: str = "middle", bold: bool = False
    ) -> None:
        weight = {"font_weight": "bold"} if bold else {}
        self.add("text", text, x=x, y=y, fill=colour, text_anchor=anchor, **weight)

    def legend(self, *entries: tuple[str, str, str]) -> None:
        """Row at the bottom: kind of mark (``dot``, ``ring``, ``arrow`` or ``line``), colour and text of each entry."""
        widths = [30 + 8.8 * len(text) + 18 for _, _, text in entries]
        x, y = (WIDTH - sum(widths) + 18) / 2, self.height - 12
        for (kind, colour, text), width in zip(entries, widths, strict=True):
            if kind in ("dot", "ring"):
                disc(self, (x + 12, y - 5), colour, filled=kind == "dot")
            else:
                arrow(self, (x, y - 5), (x + 24, y - 5), colour, head=9 if kind == "arrow" else 0)
            self.text(x + 30, y, text, anchor="start")
            x += width

    def svg(self) -> str:
        box = f'viewBox="0 0 {WIDTH} {number(self.height)}" width="{WIDTH}" height="{number(self.height)}"'
        font = f'font-family="system-ui, sans-serif" font-size="{TEXT}"'
        lines = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} {font} role="img">',
            f"<title>{escape(self.title)}</title>",
        )
        return "\n".join([*lines, *self.elements, "</svg>", ""])


class Panel:
    """Part of a figure with its own coordinates, of one scale on both axes.

    Args:
        figure: Figure to draw into.
        box: Left, top, width and height in the figure.
        centre: Coordinates at the middle of the box.
        reach: Coordinates from the middle to the left and right edges.
    """

    def __init__(
        self, figure: Figure, box: tuple[float, float, float, float], centre: Point = (0, 0), reach: float = 1
    ):
        self.figure, self.box, self.centre, self.unit = figure, box, np.asarray(centre, float), box[2] / 2 / reach
        self.reach = np.array([reach, box[3] / 2 / self.unit])

    def at(self, point: Point) -> np.ndarray:
        """Place in the figure."""
        left, top, width, height = self.box
        x, y = (np.asarray(point, float) - self.centre) * self.unit
        return np.array([left + width / 2 + x, top + height / 2 - y])

    def corners(self) -> np.ndarray:
        """Coordinates (4, 2) of the corners, anticlockwise."""
        return self.centre + self.reach * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])

    def frame(self, title: str = "") -> None:
        left, top, width, height = self.box
        self.figure.add(
            "rect", x=left, y=top, width=width, height=height, rx=6, fill="none", stroke=GREY, stroke_opacity=0.5
        )
        if title:
            self.figure.text(left + width / 2, top - 9, title, bold=True)

    def polygon(self, points: Iterable[Point], fill: str = "none", opacity: float = 1, edge: str = GREY) -> None:
        path = " ".join(f"{number(x)},{number(y)}" for x, y in map(self.at, points))
        self.figure.add("polygon", points=path, fill=fill, fill_opacity=opacity, stroke=edge, stroke_opacity=0.45)

    def line(
        self, points: Iterable[Point], colour: str = GREY, width: float = 1.5, dash: str = "", opacity: float = 1
    ) -> None:
        path = " ".join(f"{number(x)},{number(y)}" for x, y in map(self.at, points))
        dashed = {"stroke_dasharray": dash} if dash else {}
        self.figure.add(
            "polyline", points=path, fill="none", stroke=colour, stroke_width=width, stroke_opacity=opacity, **dashed
        )

    def circle(self, radius: float, centre: Point = (0, 0)) -> None:
        x, y = self.at(centre)
        self.figure.add("circle", cx=x, cy=y, r=radius * self.unit, fill="none", stroke=GREY, stroke_opacity=0.8)

    def dot(self, point: Point, colour: str, filled: bool = True, radius: float = 6) -> None:
        disc(self.figure, self.at(point), colour, filled, radius)

    def arrow(
        self, start: Point, end: Point, colour: str, width: float = 2, shorten: float = 0, head: float = 9
    ) -> None:
        """Arrow that ends ``shorten`` units of the figure before ``end``."""
        a, b = self.at(start), self.at(end)
        length = float(np.hypot(*(b - a)))
        if length > shorten + 2:
            arrow(self.figure, a, b - (b - a) * shorten / length, colour, width, min(head, length * 0.6))

    def text(
        self, point: Point, text: str, colour: str = GREY, dx: float = 0, dy: float = 0, bold: bool = False
    ) -> None:
        x, y = self.at(point)
        self.figure.text(x + dx, y + dy + TEXT * 0.35, text, colour, bold=bold)


def disc(figure: Figure, place: Point, colour: str, filled: bool = True, radius: float = 6) -> None:
    inside = colour if filled else "none"
    figure.add("circle", cx=place[0], cy=place[1], r=radius - (not filled), fill=inside, stroke=colour, stroke_width=2)


def arrow(figure: Figure, start: Point, end: Point, colour: str, width: float = 2, head: float = 9) -> None:
    a, b = np.asarray(start, float), np.asarray(end, float)
    way = (b - a) / max(float(np.hypot(*(b - a))), 1e-9)
    neck = b - way * head * 0.8
    side = np.array([-way[1], way[0]]) * head * 0.45
    figure.add("line", x1=a[0], y1=a[1], x2=neck[0], y2=neck[1], stroke=colour, stroke_width=width)
    if head:
        back = b - way * head
        path = " ".join(f"{number(x)},{number(y)}" for x, y in (b, back + side, back - side))
        figure.add("polygon", points=path, fill=colour)


def number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{round(float(value), 2 if abs(value) < 1 else 1) + 0.0:g}"


def regions(search: np.ndarray, bias: np.ndarray, corners: np.ndarray) -> list[np.ndarray]:
    """Convex polygons (m, 2), parts of a box, in which each row of ``search`` (n, 2) has the largest ``z·row + bias``.

    A row that is nowhere the largest has an empty polygon.
    """
    cells = []
    for j in range(len(search)):
        polygon = corners
        for k in range(len(search)):
            if k != j and len(polygon):
                polygon = clip(polygon, search[j] - search[k], bias[j] - bias[k])
        x, y = polygon.T
        area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
        cells.append(polygon if area > 1e-9 else polygon[:0])
    return cells


def clip(polygon: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    """Part of a convex polygon where ``point·normal + offset`` is not negative."""
    kept = []
    values = polygon @ normal + offset
    for i, (point, value) in enumerate(zip(polygon, values, strict=True)):
        before, previous = polygon[i - 1], values[i - 1]
        if value * previous < 0:
            kept.append(before + (point - before) * previous / (previous - value))
        if value >= 0:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)
