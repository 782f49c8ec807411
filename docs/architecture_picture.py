"""The picture of docs/make_architecture.py: houses as boxes, rooms in layers, an arrow for what imports what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import groupby, pairwise

LETTER, BOX, PITCH, GAP, MARGIN = 7.3, 38, 64, 18, 28  # px: a letter, a room, a layer, between houses, around
HEAD, BETWEEN, APART, LEAST = 60, 32, 42, 380  # above rooms, between storeys, between rooms, width of a house
# Ground and line of a house, from the ground up; a roof comes last.
COLOURS = [
    ("#eef3fa", "#1f5fa8"),
    ("#eef6ee", "#2f7a3d"),
    ("#f1f4e8", "#66751d"),
    ("#fdf4e3", "#9a6b14"),
    ("#f8eef3", "#963a68"),
]
ROOF = ("#f3efe9", "#8a4b2f")
STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f; }
.room { font: 600 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; text-anchor: middle; }
.file { font-weight: 400; }
.inner { font: 10px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; text-anchor: middle; fill: #57606a; }
.house { font: 700 19px Georgia, "DejaVu Serif", serif; }
.about { font-size: 12px; fill: #57606a; }
.arrow { fill: none; stroke-width: 1.2; opacity: .6; }
"""
TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 1L7 4L0 7z" fill="#6e7781"/></marker></defs>'
)


@dataclass(frozen=True)
class Band:
    """A house, or the roof of one."""

    name: str  # "bench", or "bench roof"
    about: str
    height: int  # 0 stands on nothing
    layers: Mapping[str, int]  # of its rooms; 0 imports no other room of the house
    arrows: Mapping[str, set[str]]  # to rooms of the same house, those left out that follow from others
    inner: Mapping[str, list[str]]  # packages inside a room
    packages: set[str]  # rooms that are folders
    stands_on: set[str]  # names of bands

    @property
    def is_roof(self) -> bool:
        """Whether it is the roof of a house."""
        return self.name.endswith(" roof")


def picture(bands: list[Band]) -> str:
    """SVG of all houses, from the ground (below) to the roof."""
    stories = [list(story) for _, story in groupby(bands, key=lambda band: band.height)]
    plans = {band.name: _Plan(band) for band in bands}
    width = max(sum(plans[band.name].width + GAP for band in story) - GAP for story in stories)
    solid = [band.name for band in bands if not band.is_roof]
    boxes: dict[str, tuple[float, float, float, float]] = {}
    y = float(MARGIN)
    for story in reversed(stories):
        spare = (width - sum(plans[band.name].width + GAP for band in story) + GAP) / len(story)
        x = float(MARGIN)
        for band in story:
            boxes[band.name] = (x, y, plans[band.name].width + spare, max(plans[b.name].height for b in story))
            x += boxes[band.name][2] + GAP
        y += max(plans[band.name].height for band in story) + BETWEEN
    arrows, rooms = [], []
    for band in bands:
        ground, line = ROOF if band.is_roof else COLOURS[solid.index(band.name) % len(COLOURS)]
        for other in sorted(band.stands_on):
            arrows.append(_between(boxes[band.name], boxes[other]))
        rooms += [_house(band, boxes[band.name], ground, line), *plans[band.name].draw(*boxes[band.name], line)]
    total, bottom = round(width + 2 * MARGIN), round(y + 34)
    legend = (
        "An arrow means: imports. Nothing imports what stands higher. Arrows that follow from others are left out.",
        "Bold: a folder, with the folders inside it. Thin: a file at the door. Drawn by docs/make_architecture.py.",
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{bottom}" viewBox="0 0 {total} {bottom}">',
        f"<title>The houses and rooms of the code, and what imports what</title><style>{STYLE}</style>",
        TIP,
        f'<rect width="{total}" height="{bottom}" rx="10" fill="#fffdf9"/>',
        *arrows,
        *rooms,
        *(
            f'<text class="about" x="{MARGIN}" y="{bottom - 42 + 20 * n}">{line}</text>'
            for n, line in enumerate(legend)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _house(band: Band, box: tuple[float, float, float, float], ground: str, line: str) -> str:
    """Its outline, its name and what it is for."""
    x, y, width, height = box
    if band.is_roof:
        slope = 70
        right, foot = x + width, y + height
        outline = f"M{x:.0f} {foot:.0f}L{x + slope:.0f} {y:.0f}H{right - slope:.0f}L{right:.0f} {foot:.0f}z"
        return (
            f'<path d="{outline}" fill="{ground}" stroke="{line}" stroke-width="1.5" stroke-linejoin="round"/>'
            f'<text class="house" x="{x + slope + 14:.0f}" y="{y + 30:.0f}" style="fill:{line}">'
            f"the roof of {band.name.split()[0]}/</text>"
            f'<text class="about" x="{x + slope + 14:.0f}" y="{y + 48:.0f}">{escape(band.about)}</text>'
        )
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="8" '
        f'fill="{ground}" stroke="{line}" stroke-width="1.5"/>'
        f'<text class="house" x="{x + 16:.0f}" y="{y + 28:.0f}" style="fill:{line}">{band.name}/</text>'
        f'<text class="about" x="{x + 16:.0f}" y="{y + 47:.0f}">{escape(_fitting(band.about, width - 32))}</text>'
    )


def _fitting(text: str, width: float) -> str:
    """As many whole words as fit."""
    letters = int(width / 6.3)
    return text if len(text) <= letters else text[:letters].rpartition(" ")[0] + " …"


def _between(upper: tuple[float, float, float, float], lower: tuple[float, float, float, float]) -> str:
    """An arrow straight down, in the middle of what both boxes span."""
    x = (max(upper[0], lower[0]) + min(upper[0] + upper[2], lower[0] + lower[2])) / 2
    return (
        f'<path d="M{x:.0f} {upper[1] + upper[3]:.0f}V{lower[1] - 1:.0f}" stroke="#6e7781" stroke-width="2" '
        'fill="none" marker-end="url(#tip)"/>'
    )


class _Plan:
    """Where the rooms of a house stand: rows by layer, with few crossings, each room near what it is joined to."""

    def __init__(self, band: Band) -> None:
        self.band = band
        self.joined: dict[str, set[str]] = {}  # neighbours in the next row, bends of long arrows included
        self.ways = []  # an arrow's rooms and bends, from above
        rows: dict[int, list[str]] = {}
        for room in sorted(band.layers):
            rows.setdefault(band.layers[room], []).append(room)
        for room, others in sorted(band.arrows.items()):
            for other in sorted(others):
                bends = [f"{room}>{other}>{row}" for row in range(band.layers[room] - 1, band.layers[other], -1)]
                way = [room, *bends, other]
                self.ways.append(way)
                for bend in bends:
                    rows[int(bend.rpartition(">")[2])].append(bend)
                for above, below in pairwise(way):
                    self.joined.setdefault(above, set()).add(below)
                    self.joined.setdefault(below, set()).add(above)
        self.rows = [rows[layer] for layer in sorted(rows)]
        self.x = {name: 0.0 for row in self.rows for name in row}
        for row in self.rows:
            self._spread(row, dict.fromkeys(row, 0.0))
        for sweep in range(24):
            for row in self.rows if sweep % 2 else self.rows[::-1]:
                row[:] = [name for _, name in sorted((self._middle(name), name) for name in row)]
                self._spread(row, {name: self._middle(name) for name in row})
        left = min(self.x[name] - self._width(name) / 2 for name in self.x)
        right = max(self.x[name] + self._width(name) / 2 for name in self.x)
        self.x = {name: x - left for name, x in self.x.items()}
        self.inside = right - left
        self.width = max(self.inside, LEAST) + 2 * GAP + (160 if band.is_roof else 0)
        self.height = HEAD + PITCH * (len(self.rows) - 1) + BOX + GAP

    def _width(self, name: str) -> float:
        if name not in self.band.layers:
            return 6
        return max(LETTER * len(self.label(name)) + 22, 6.1 * len(self.second(name)) + 18, 52)

    def label(self, room: str) -> str:
        """The name on its box."""
        return room.partition(".")[2].replace("*", "*.py") or "__init__"

    def second(self, room: str) -> str:
        """What stands below the name: the packages inside, or what plug-ins are."""
        return "plug-ins, found by name" if room.endswith(".*") else " · ".join(self.band.inner[room])

    def _middle(self, name: str) -> float:
        """Of the rooms above and below; rounded, so that equal places stay equal on every machine."""
        near = self.joined.get(name)
        return round(sum(self.x[other] for other in sorted(near)) / len(near), 3) if near else self.x[name]

    def _spread(self, row: list[str], wanted: Mapping[str, float]) -> None:
        """As near as possible to the wanted places, in this order, without touching; a pool is rooms that touch."""
        offsets, end = [], 0.0
        for name in row:
            offsets.append(end + self._width(name) / 2)
            end += self._width(name) + APART
        pools: list[list[float]] = []  # mean, members
        for name, offset in zip(row, offsets, strict=True):
            pools.append([wanted[name] - offset, 1])
            while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                (left, few), (right, more) = pools.pop(-2), pools.pop()
                pools.append([(left * few + right * more) / (few + more), few + more])
        places = [mean for mean, count in pools for _ in range(int(count))]
        self.x |= {name: place + offset for name, place, offset in zip(row, places, offsets, strict=True)}

    def draw(self, x: float, y: float, width: float, height: float, line: str) -> list[str]:
        """Arrows, then rooms over them, the lowest layer at the bottom of the box."""
        left, floor = x + (width - self.inside) / 2, y + height - GAP - BOX
        tops = {name: floor - PITCH * layer for layer, row in enumerate(self.rows) for name in row}
        parts = [self._arrow(way, left, tops, line) for way in self.ways]
        for room in sorted(self.band.layers):
            middle, top, wide = left + self.x[room], tops[room], self._width(room)
            folder = room in self.band.packages or room.endswith(".*")
            second = self.second(room)
            parts.append(
                f'<rect x="{middle - wide / 2:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{BOX}" '
                f'rx="{5 if folder else BOX // 2}" '
                f'fill="#ffffff" stroke="{line}" stroke-width="{1.8 if folder else 0.8}"/>'
                f'<text class="{"room" if folder else "room file"}" x="{middle:.1f}" '
                f'y="{top + (17 if second else 23):.1f}">{self.label(room)}</text>'
                + (f'<text class="inner" x="{middle:.1f}" y="{top + 31:.1f}">{second}</text>' if second else "")
            )
        return parts

    def _arrow(self, way: list[str], left: float, tops: Mapping[str, float], line: str) -> str:
        """A curve from the foot of a room through its bends to the top of another."""
        points = [(left + self.x[way[0]], tops[way[0]] + BOX)]
        for bend in way[1:-1]:
            points += [(left + self.x[bend], tops[bend]), (left + self.x[bend], tops[bend] + BOX)]
        points.append((left + self.x[way[-1]], tops[way[-1]] - 2))
        path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for index, (x, y) in enumerate(points[1:]):
            before, above = points[index]
            if index % 2:
                path += f"V{y:.1f}"
            else:
                half = (above + y) / 2
                path += f"C{before:.1f} {half:.1f} {x:.1f} {half:.1f} {x:.1f} {y:.1f}"
        return f'<path class="arrow" d="{path}" stroke="{line}" marker-end="url(#tip)"/>'
