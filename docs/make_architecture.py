"""Draw the house from its code: docs/architecture.svg, and the tables in docs/architecture.md.

python docs/make_architecture.py            # rewrite both
python docs/make_architecture.py --check    # exit 1 when one is out of date, or when imports go round in a circle

No name of a room stands here. A house is a top-level package. Its rooms are its sub-packages and the files at its
door; a house with many files that nothing imports holds plug-ins, which are found by name and drawn as one room. The
first line of its docstring says what a room is for. Every import counts, also one inside a function or for types alone.
The roof of a house is what imports another house that stands on it.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from architecture_picture import Band, picture

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- rooms: made by docs/make_architecture.py, not typed -->", "<!-- end of rooms -->"
PLUGINS = 5  # so many files at a door that nothing imports are plug-ins
Graph = Mapping[str, set[str]]


class CircleError(Exception):
    """Imports that go round: what stands on what cannot be said."""

    def __init__(self, what: str, way: list[str]) -> None:
        super().__init__(f"circle of {what}: {' -> '.join(way)}")
        self.way = way


@dataclass(frozen=True)
class Code:
    """The modules below some top-level packages."""

    modules: Mapping[str, Path]
    imports: Graph  # of modules

    @property
    def houses(self) -> list[str]:
        """Top-level packages."""
        return sorted(name for name in self.modules if "." not in name)

    def is_package(self, module: str) -> bool:
        """Whether it is a folder."""
        return self.modules[module].name == "__init__.py"

    def about(self, module: str) -> str:
        """First line of a module's docstring."""
        doc = ast.get_docstring(ast.parse(self.modules[module].read_text(encoding="utf-8")))
        return doc.splitlines()[0] if doc else ""

    def rooms_below(self, package: str) -> list[str]:
        """Names of the packages inside a package."""
        inside = [name for name in self.modules if name.rpartition(".")[0] == package and self.is_package(name)]
        return sorted(name.rpartition(".")[2] for name in inside)


def read(root: Path) -> Code:
    """Every package with an `__init__.py` in a folder, but for tests."""
    modules = {}
    for package in sorted(root.glob("*/__init__.py")):
        if package.parent.name == "tests":
            continue
        for path in sorted(package.parent.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return Code(modules, {name: set(_imports(name, path, modules)) for name, path in modules.items()})


def _imports(module: str, path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules that a file imports; `from package import name` is the module `package.name` where there is one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                source = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [source])])
            names = [inner if (inner := f"{source}.{alias.name}") in modules else source for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in modules and name != module)


def rooms_of(code: Code) -> dict[str, str]:
    """The room of each module. A house's own `__init__` is its door frame, no room: all in it may lean on that."""
    imported = set().union(*code.imports.values())
    rooms: dict[str, str] = {}
    for house in code.houses:
        door = [m for m in code.modules if m.rpartition(".")[0] == house and not code.is_package(m)]
        shelf = len([m for m in door if m not in imported]) >= PLUGINS
        rooms |= {m: f"{house}.*" if shelf else m for m in door}
        rooms |= {m: ".".join(m.split(".")[:2]) for m in code.modules if m.startswith(f"{house}.") and m not in door}
    return rooms


def between(graph: Graph, groups: Mapping[str, str]) -> dict[str, set[str]]:
    """The graph of groups: what a member imports, its group imports."""
    found: dict[str, set[str]] = {group: set() for group in groups.values()}
    for name, others in graph.items():
        for other in others:
            if name in groups and other in groups and groups[name] != groups[other]:
                found[groups[name]].add(groups[other])
    return found


def reach(graph: Graph, start: str) -> set[str]:
    """All that can be reached in one step or more."""
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def layers(graph: Graph, what: str) -> dict[str, int]:
    """0 for what imports nothing, else one more than the highest import. Raises CircleError with a shortest circle."""
    level: dict[str, int] = {}
    waiting = dict(graph)
    while waiting:
        ready = {name for name, others in waiting.items() if others.isdisjoint(waiting)}
        if not ready:
            raise CircleError(what, _circle(graph, set(waiting)))
        for name in ready:
            level[name] = 1 + max((level[other] for other in waiting[name]), default=-1)
        waiting = {name: others for name, others in waiting.items() if name not in ready}
    return level


def _circle(graph: Graph, among: set[str]) -> list[str]:
    """A shortest way from a name back to itself; the first in the alphabet of the shortest ones."""
    found: list[list[str]] = []
    for start in sorted(among):
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop(0)
            if start in graph[way[-1]]:
                found.append([*way, start])
                break
            for name in sorted((graph[way[-1]] & among) - seen):
                seen.add(name)
                ways.append([*way, name])
    return min(found, key=len)


def nearest(graph: Graph) -> dict[str, set[str]]:
    """The imports that do not follow from others. The graph has no circle."""
    return {name: others - set().union(*(reach(graph, other) for other in others)) for name, others in graph.items()}


def house_of(room: str) -> str:
    """The house of a room or of a roof."""
    return room.partition(".")[0].partition(" ")[0]


def roofs_of(rooms: Graph) -> set[str]:
    """Rooms from which a way leads through another house back into their own."""
    below = {room: reach(rooms, room) for room in rooms}
    away = {room: {other for other in below[room] if house_of(other) != house_of(room)} for room in rooms}
    return {room for room in rooms if any(house_of(room) in map(house_of, below[other]) for other in away[room])}


def bands(code: Code) -> list[Band]:
    """Houses and roofs from the ground up, each with its rooms in layers. Raises CircleError."""
    layers(code.imports, "files")
    membership = rooms_of(code)
    rooms = between(code.imports, membership)
    layers(rooms, "rooms")
    roofs = roofs_of(rooms)
    part = {room: f"{house_of(room)} roof" if room in roofs else house_of(room) for room in rooms}
    parts = between(rooms, part)
    heights = layers(parts, "houses")
    found = []
    for name in sorted(parts, key=lambda name: (heights[name], name)):
        inside = {room: {other for other in rooms[room] if part[other] == name} for room in rooms if part[room] == name}
        found.append(
            Band(
                name=name,
                about=_about(code, name),
                height=heights[name],
                layers=layers(inside, "rooms"),
                arrows=nearest(inside),
                inner={room: code.rooms_below(room) if room in code.modules else [] for room in inside},
                packages={room for room in inside if room in code.modules and code.is_package(room)},
                stands_on=nearest(parts)[name],
            )
        )
    return found


def _reasons(code: Code, way: list[str]) -> Iterator[str]:
    """For each step of a circle the first import that makes it."""
    rooms = rooms_of(code)
    names = {module: {module, rooms.get(module), house_of(module)} for module in code.modules}
    for above, below in pairwise(way):
        steps = [(m, n) for m, others in sorted(code.imports.items()) for n in sorted(others)]
        for module, other in [(m, n) for m, n in steps if above in names[m] and below in names[n]][:1]:
            yield f"  {_path(code, module)} imports {other}"


def _about(code: Code, band: str) -> str:
    house, _, roof = band.partition(" ")
    return f"What imports houses that stand on {house}/." if roof else code.about(house)


def table(code: Code, house: list[Band]) -> str:
    """The rooms from the roof down, in Markdown."""
    all_rooms = nearest(between(code.imports, rooms_of(code)))
    lines = []
    for band in reversed(house):
        lines += ["", f"**{_title(band.name)}** {band.about}", ""]
        lines += ["| layer | room | what it is for | stands on |", "|---:|---|---|---|"]
        for room in sorted(band.layers, key=lambda room: (-band.layers[room], room)):
            about = code.about(room) if room in code.modules else "the plug-ins"
            below = ", ".join(f"`{_short(other, band.name)}`" for other in sorted(all_rooms[room]))
            lines.append(f"| {band.layers[room]} | `{_path(code, room)}` | {_cell(about)} | {below} |")
            for inner in band.inner[room]:
                lines.append(f"| | `{_path(code, f'{room}.{inner}')}` | {_cell(code.about(f'{room}.{inner}'))} | |")
    return "\n".join(lines).strip()


def _title(name: str) -> str:
    house, _, roof = name.partition(" ")
    return f"The roof of {house}/." if roof else f"{house}/."


def _short(room: str, band: str) -> str:
    """A room's name, without the house where it is the same."""
    inside = house_of(room) == house_of(band)
    return room.partition(".")[2] or room if inside else room


def _path(code: Code, room: str) -> str:
    path = room.replace(".", "/")
    return f"{path}/" if room in code.modules and code.is_package(room) else f"{path}.py"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Rewrite or check the picture and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="another tree, with docs/architecture.md in it")
    asked = parser.parse_args()
    page, drawing = asked.root / "docs/architecture.md", asked.root / "docs/architecture.svg"
    code = read(asked.root)
    try:
        house = bands(code)
    except CircleError as error:
        print(error, *_reasons(code, error.way), sep="\n")
        return 1
    before = page.read_text(encoding="utf-8")
    head, opened, rest = before.partition(BEGIN)
    _, closed, tail = rest.partition(END)
    if not opened or not closed:
        print(f"{page} has no section between {BEGIN} and {END}")
        return 1
    after = {page: f"{head}{BEGIN}\n\n{table(code, house)}\n\n{END}{tail}", drawing: picture(house)}
    stale = [path for path, text in after.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if asked.check:
            print(f"{path.name} does not show the code as it is: python docs/make_architecture.py")
        else:
            path.write_text(after[path], encoding="utf-8")
    return int(bool(stale) and asked.check)


if __name__ == "__main__":
    sys.exit(main())
