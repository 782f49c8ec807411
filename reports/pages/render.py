"""Templates and style, found as package data, and the way from a template to a page."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined

from reports import words


def render(template: str, root: str, values: dict[str, object]) -> str:
    """The page of a template. `root` is the way up to the report's folder: "" or "../"."""
    return _environment().get_template(template).render(root=root, **values)


def style_sheet() -> str:
    """The one style sheet of all pages."""
    return _read("style.css")


def script() -> str:
    """The one script of all pages: sorting, searching, living. Pages are readable without it."""
    return _read("templates", "script.js.j2")


@cache
def _environment() -> Environment:
    # Autoescape for every template, whatever its suffix: labels, log lines and error messages are foreign text.
    environment = Environment(
        loader=FunctionLoader(lambda name: _read("templates", name)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": words.took, "number": words.compact, "title": words.title}
    return environment


def _read(*parts: str) -> str:
    return resources.files("reports").joinpath(*parts).read_text(encoding="utf-8")
