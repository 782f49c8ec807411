"""A matplotlib figure as SVG for inlining: text stays text, colours follow the page, the bytes are always the same."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeAlias, TypedDict
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

# Figures are drawn in these colours; in the SVG each becomes a CSS variable, so that one figure serves light and
# dark pages. The colour itself is the fallback where no style sheet defines the variable.
INK, MUTED, RULE, PAGE = "#22262b", "#6a7178", "#d8d5ce", "#fbfaf7"
PAPER, HERE, REFERENCE = "#8a6d1f", "#1d5fa9", "#7a4a94"
SERIES = ("#1d5fa8", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#be185d", "#0e7490", "#525252")
RAMP = ("#a9c8ea", "#7fabdd", "#568dcb", "#326fb3", "#1c5391", "#0f396b")  # light to dark: an ordered quantity
Dash: TypeAlias = Literal["-", "--", ":", "-."]
DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")
LABEL_LENGTH = 42
MINUS = "\N{MINUS SIGN}"
VARIABLES: Mapping[str, str] = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAGE: "--page",
    PAPER: "--figure-paper",
    HERE: "--figure-here",
    REFERENCE: "--figure-reference",
    **{color: f"--series-{place}" for place, color in enumerate(SERIES, start=1)},
    **{color: f"--ramp-{place}" for place, color in enumerate(RAMP, start=1)},
}

_SETTINGS: dict[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reports",  # without it the ids, and so the bytes, differ from run to run
    "text.parse_math": False,  # a dollar in a label is a dollar
    "font.family": "DejaVu Sans",  # ships with matplotlib; the page's own font is narrower, so nothing overflows
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


class Style(TypedDict):
    """How a line of several is told from the others."""

    colour: str
    dash: Dash


@contextmanager
def drawing_style() -> Iterator[None]:
    """The settings under which figures are drawn and saved."""
    with mpl.rc_context(_SETTINGS):  # type: ignore[arg-type]
        yield


def to_svg(figure: Figure, *, name: str, title: str) -> str:
    """The figure as an `<svg>` element. `name` is unique on the page and begins every id; `title` is read aloud."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has more fonts
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in list(element.attrib):
            element.set(key.rpartition("}")[2], element.attrib.pop(key))
        _rename_ids(element, name)
        if "style" in element.attrib:
            element.set("style", _restyle(element.attrib["style"]))
        element.tail = None
    for parent in root.iter():
        for child in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(child)  # a <style> in an inlined SVG would act on the whole page
    inches = float(root.attrib.pop("width").removesuffix("pt")) / 72
    del root.attrib["height"], root.attrib["version"]
    root.attrib |= {
        "xmlns": "http://www.w3.org/2000/svg",
        "role": "img",
        "aria-label": clean(title),
        "class": "figure",
        # Shown at its natural size, smaller on a narrow page down to what can still be read; then it scrolls.
        "style": f"max-width: {inches:.2f}in; min-width: {min(inches, 5.4):.2f}in; stroke-linejoin: round; "
        "stroke-linecap: butt",
    }
    heading = ElementTree.Element("title")
    heading.text = clean(title)
    root.insert(0, heading)
    return ElementTree.tostring(root, encoding="unicode")


def clean(text: str) -> str:
    """One line without control characters, which XML does not allow."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def short(text: str) -> str:
    """A label as a figure has room for it; tables have it whole."""
    text = clean(text)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def style(place: int) -> Style:
    """Colour and dash of the line at a place in a legend: the dashes change when the colours are through."""
    return {"colour": SERIES[place % len(SERIES)], "dash": DASHES[place // len(SERIES) % len(DASHES)]}


def _rename_ids(element: ElementTree.Element, name: str) -> None:
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.attrib['id']}")
    if element.attrib.get("href", "").startswith("#"):
        element.set("href", f"#{name}-{element.attrib['href'][1:]}")
    if element.attrib.get("clip-path", "").startswith("url(#"):
        element.set("clip-path", f"url(#{name}-{element.attrib['clip-path'][5:]}")


def _restyle(style: str) -> str:
    """Colours become variables, and the font family goes: the text takes the page's."""
    kept = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            kept.append(f"font-size: {value.split(' ')[0]}")
        elif key not in ("font-family", ""):
            kept.append(f"{key}: {f'var({VARIABLES[value]}, {value})' if value in VARIABLES else value}")
    return "; ".join(kept)
