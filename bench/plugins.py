"""Methods, evaluations and tables are found by the name of their file: no list to edit, no registration.

A folder of one's own joins in through the environment variable BENCH_PLUGINS (paths separated as in PATH): its
subfolders `methods/`, `evals/` and `tables/` are searched after the project's own. A file is read once into what
bench/contracts.py says; packages and files whose name begins with an underscore are shared parts, not plug-ins.
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from bench import ROOT, packages
from bench.contracts import Cost, Difference, Evaluation, MethodFile, Metric, Recipe
from bench.errors import BenchError, one_line, unknown_name
from bench.spec import CENTRE, Backbone

PACKAGES = {"method": "methods", "evaluation": "evals", "table": "results.tables"}
FOLDERS = {"method": "methods", "evaluation": "evals", "table": "tables"}
# Public names in capitals that a file may export, with the class of each.
METHOD_NAMES: Mapping[str, Any] = {"RECIPES": Mapping, "VARIANTS": Mapping, "DIFFERENCES": tuple}
EVALUATION_NAMES: Mapping[str, Any] = {
    "METRICS": Mapping,
    "RECIPES": Mapping,
    "VARIANTS": Mapping,
    "DIFFERENCES": tuple,
    "NEEDS_PROJECTOR": bool,
    "USES_RANKS": bool,
    "ON_CPU": bool,
    "RESUMES": bool,
    "RECOMPUTES": bool,
    "FEATURES": tuple,
    "MISSING": Callable,
}
SPLITS = ("train", "val", "test")


def names(kind: str) -> list[str]:
    """All names of one kind, sorted."""
    return sorted({name for name, _ in files(kind)})


@cache
def method(name: str) -> MethodFile:
    """The file methods/<name>.py. Raises BenchError with the valid names, or for what the file lacks."""
    module = load("method", name)
    file = _file(module)
    config, build = _config(module), _needed(module, "Method")
    recipes, variants = _recipes(module, METHOD_NAMES, Recipe)
    for found in (recipes, *variants.values()):
        if not all(isinstance(recipe.method, config) for recipe in found.values()):
            raise BenchError(f"{file}: each Recipe's method must be an object of its Config.")
    return MethodFile(
        name=name,
        config=config,
        build=build,
        recipes=recipes,
        variants=variants,
        differences=_differences(module),
        check=getattr(config, "check", _nothing),
        before_step=getattr(build, "before_step", _nothing),
        projector=lambda made: getattr(made, "projector", None),
    )


@cache
def evaluation(name: str) -> Evaluation:
    """The file evals/<name>.py. Raises BenchError with the valid names, or for what the file lacks."""
    module = load("evaluation", name)
    config = _config(module)
    recipes, variants = _recipes(module, EVALUATION_NAMES, config)
    metrics, features = _needed(module, "METRICS"), vars(module).get("FEATURES")
    passes = getattr(config, "passes", lambda _: None)
    _check_values(_file(module), "METRICS", metrics, Metric)
    in_steps, resumes = vars(module).get("evaluate_in_steps"), vars(module).get("RESUMES", False)
    if in_steps is not None and not resumes:
        raise BenchError(
            f"{_file(module)}: evaluate_in_steps is for an evaluation that keeps its state: expected RESUMES = True."
        )
    for split in features or ():
        if split not in SPLITS:
            raise unknown_name(f"split in FEATURES of {_file(module)}", str(split), SPLITS)
    return Evaluation(
        name=name,
        config=config,
        metrics=metrics,
        recipes=recipes,
        evaluate=_needed(module, "evaluate"),
        evaluate_in_steps=in_steps,
        variants=variants,
        differences=_differences(module),
        needs_projector=vars(module).get("NEEDS_PROJECTOR", False),
        uses_ranks=vars(module).get("USES_RANKS", False),
        on_cpu=vars(module).get("ON_CPU", False),
        resumes=resumes,
        recomputes=vars(module).get("RECOMPUTES", False),
        features=features,
        missing=vars(module).get("MISSING", str),  # str() is "": nothing
        describe=getattr(config, "describe", lambda _: summary("evaluation", name)),
        summary=getattr(config, "summary", lambda _: ""),
        cost=partial(_cost, getattr(config, "cost", None)),
        work=getattr(config, "work", lambda *_: None),
        passes=passes,
        memory=getattr(config, "memory", lambda made, sizes: None),
        trains_network=lambda made: hasattr(config, "cost") or (passes(made) or (0, 0))[1] > 0,
        label_fraction=lambda made: getattr(made, "label_fraction", 1.0),
        crop=lambda made: getattr(made, "crop", CENTRE),
        batch_size=lambda made: getattr(made, "batch_size", 0),
        most_ranks=getattr(config, "most_ranks", lambda _: 0),
        version=lambda made: getattr(made, "VERSION", 1),
    )


def table(name: str) -> object:
    """What results/tables/<name>.py exports as TABLE.

    Raises BenchError with the valid names, or when it exports none.
    """
    found = vars(load("table", name)).get("TABLE")
    if found is None:
        raise BenchError(f"results/tables/{name}.py must export TABLE, a Table.")
    return found


def method_of(config: object) -> MethodFile:
    """The file whose Config this is an object of."""
    return method(name_of(config))


def evaluation_of(protocol: object) -> Evaluation:
    """The file whose Config this is an object of."""
    return evaluation(name_of(protocol))


def name_of(config: object) -> str:
    """Name of the file that the class of a Config stands in."""
    return type(config).__module__.rpartition(".")[2]


@cache
def load(kind: str, name: str) -> ModuleType:
    """The module behind a name. Raises BenchError with the valid names."""
    known = dict(files(kind))
    if name not in known:
        raise unknown_name(kind, name, known)
    try:
        module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
    except Exception as error:  # whatever a file of one's own does wrong
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"line {where.lineno} of {where.filename}"
        raise BenchError(f"{known[name]} cannot be imported ({one_line(error)}, {at}).") from error
    if Path(str(module.__file__)).resolve() != known[name].resolve():
        raise BenchError(f"{known[name]} has the name of {module.__file__}, which is found first: give it another.")
    return module


def summary(kind: str, name: str) -> str:
    """First line of the module's docstring, read without importing it (an import would cost torch)."""
    try:
        doc = ast.get_docstring(ast.parse(dict(files(kind))[name].read_bytes()))
    except (SyntaxError, ValueError, OSError) as error:
        return f"cannot be read ({one_line(error)})"
    return doc.splitlines()[0] if doc else ""


def resolve(name: str) -> object:
    """The object behind `module:Class`, only from the project's own packages: a spec never runs foreign code."""
    module, _, attribute = name.partition(":")
    if module.split(".")[0] not in {"bench", "methods", "evals"}:
        raise BenchError(f"a spec may name classes of bench, methods and evals only, found {name!r}.")
    for kind in ("method", "evaluation"):
        _package(kind)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BenchError(f"{name} does not exist here ({error}): the spec was written by another version.") from error


def files(kind: str, suffix: str = ".py") -> Iterator[tuple[str, Path]]:
    """Names and files of one kind, or what lies beside them; of two with one name, the project's."""
    seen: set[str] = set()
    for folder in _package(kind).__path__:
        for found in pkgutil.iter_modules([folder]):
            path = Path(folder) / f"{found.name}{suffix}"
            if found.ispkg or found.name.startswith("_") or found.name in seen:
                continue
            seen.add(found.name)
            if suffix == ".py" or path.is_file():
                yield found.name, path


@cache
def _package(kind: str) -> ModuleType:
    """The package of a kind, its search path extended by the plug-in folders."""
    packages.check(PACKAGES[kind].partition(".")[0])
    package = importlib.import_module(PACKAGES[kind])
    for root in filter(None, os.environ.get("BENCH_PLUGINS", "").split(os.pathsep)):
        folder = Path(root) / FOLDERS[kind]
        if not Path(root).is_dir():
            raise BenchError(f"BENCH_PLUGINS names {root}, which is not a folder.")
        if folder.is_dir() and str(folder) not in package.__path__:
            package.__path__.append(str(folder))
    return package


def _file(module: ModuleType) -> str:
    path = Path(str(module.__file__))
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _cost(hook: Callable[[Any, Backbone], Any] | None, config: Any, backbone: Backbone) -> Cost | None:
    """What Config.cost says. Before version 0.2 that was a tuple, which answers for one release."""
    found = None if hook is None else hook(config, backbone)
    if isinstance(found, tuple):
        text = f"{type(config).__module__}: cost() returns a bench.contracts.Cost since version 0.2, not a tuple."
        warnings.warn(text, FutureWarning, stacklevel=2)
        found = Cost(*found)
    return found


def _needed(module: ModuleType, name: str) -> Any:
    if name not in vars(module):
        raise BenchError(f"{_file(module)} must export {name}: bench/contracts.py says what it is.")
    return vars(module)[name]


def _config(module: ModuleType) -> type:
    config: type = _needed(module, "Config")
    parameters = vars(config).get("__dataclass_params__") if isinstance(config, type) else None
    if parameters is None or not parameters.frozen:
        raise BenchError(f"{_file(module)}: Config is {config!r}, expected a frozen dataclass.")
    return config


def _recipes(module: ModuleType, allowed: Mapping[str, Any], kind: type) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """RECIPES and VARIANTS, after a look at all names in capitals."""
    _check_capitals(module, allowed)
    recipes, variants = _needed(module, "RECIPES"), vars(module).get("VARIANTS", {})
    for name, found in {
        "RECIPES": recipes,
        **{f"VARIANTS[{variant!r}]": found for variant, found in variants.items()},
    }.items():
        _check_values(_file(module), name, found, kind)
    return recipes, variants


def _differences(module: ModuleType) -> tuple[Difference, ...]:
    found: tuple[Difference, ...] = vars(module).get("DIFFERENCES", ())
    for item in found:
        if not isinstance(item, Difference) or not all(isinstance(text, str) and text for text in astuple(item)):
            raise BenchError(
                f"{_file(module)}: DIFFERENCES has {item!r:.80}, expected objects of Difference whose five texts say "
                "something."
            )
    return found


def _check_capitals(module: ModuleType, allowed: Mapping[str, Any]) -> None:
    """Each public name in capitals is one of the contract's and of its class: RESUMS = True must not go unnoticed."""
    found = {name: value for name, value in vars(module).items() if name.isupper() and not name.startswith("_")}
    found = {name: value for name, value in found.items() if not isinstance(value, TypeVar)}
    for name in found.keys() & allowed.keys():
        if not isinstance(found[name], allowed[name]) and not (name == "FEATURES" and found[name] is None):
            wanted = allowed[name].__name__.lower()
            raise BenchError(f"{_file(module)}: {name} is {found[name]!r:.80}, expected a {wanted}.")
    unknown = found.keys() - allowed.keys()
    # imported constants are no one's promise
    for name in sorted(unknown.intersection(_assigned(module)) if unknown else ()):
        error = unknown_name(f"name in {_file(module)}", name, allowed)
        raise BenchError(f"{error} A constant of your own begins with an underscore: _{name}.")


def _assigned(module: ModuleType) -> set[str]:
    """Names that the file itself gives a value to, outside functions and classes."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(Path(str(module.__file__)).read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found


def _check_values(file: str, name: str, value: object, kind: type) -> None:
    if not isinstance(value, Mapping) or not value or not all(isinstance(item, kind) for item in value.values()):
        raise BenchError(
            f"{file}: {name} is {value!r:.80}, expected a mapping from names to objects of {kind.__name__}."
        )


def _nothing(*_: object) -> None:
    """What a hook that a file does not have does."""
