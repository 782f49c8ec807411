"""A file of evals/ or methods/ is read once, in full, and what it cannot mean is refused in one line."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench import authors, plugins
from bench.contracts import Cost
from bench.errors import BenchError
from bench.spec import CENTRE, Backbone
from evals.semi_supervised import Config as SemiSupervised
from methods.simclr import Config as SimCLR
from tests.conftest import tiny_pretrain

EVALUATION = '''"""Counts nothing."""
from dataclasses import dataclass
from bench.contracts import Metric, Outcome
from bench.spec import CENTRE

METRICS = {"nothing": Metric("", higher_is_better=True)}

@dataclass(frozen=True)
class Config:
    VERSION: int = 3

RECIPES = {"embedded": Config()}

def evaluate(config, subject, context):
    return Outcome({"nothing": 0.0})
'''
METHOD = '''"""Does nothing (arXiv:0000.00000)."""
from dataclasses import dataclass, replace
from methods import simclr

@dataclass(frozen=True)
class Config:
    pass

class Method(simclr.Method):
    pass

RECIPES = {name: replace(recipe, method=Config()) for name, recipe in simclr.RECIPES.items()}
'''
CACHES = (
    plugins._package,
    plugins.load,
    plugins.method,
    plugins.evaluation,
    authors._all,
    authors.catalogue,
    authors.hours,
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a plug-in under a name of its own, and gives the name; `beside` is the text of its .toml."""
    packages = [importlib.import_module(name) for name in ("methods", "evals")]
    for package in packages:
        monkeypatch.setattr(package, "__path__", list(package.__path__))
    monkeypatch.setenv("BENCH_PLUGINS", str(tmp_path))
    for cached in CACHES:
        cached.cache_clear()

    def written(text: str, folder: str = "evals", beside: str = "") -> str:
        name = f"mine_{tmp_path.name.replace('-', '_')}"
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(text)
        if beside:
            (tmp_path / folder / f"{name}.toml").write_text(beside)
        return name

    return written


@pytest.fixture(autouse=True)
def forget() -> object:
    """What was cached with the plug-ins of a test is not there for the next."""
    yield
    for cached in CACHES:
        cached.cache_clear()


def test_a_file_that_says_nothing_has_every_default(write: Callable[..., str]) -> None:
    found = plugins.evaluation(write(EVALUATION))
    config = found.recipes["embedded"]
    assert (found.needs_projector, found.uses_ranks, found.resumes, found.features) == (False, False, False, None)
    assert (found.variants, found.missing(), found.describe(config), found.summary(config)) == (
        {},
        "",
        "Counts nothing.",
        "",
    )
    assert (found.passes(config), found.trains_network(config), found.version(config)) == (None, False, 3)
    assert (found.label_fraction(config), found.crop(config), found.differences) == (1.0, CENTRE, ())
    assert found.config is type(config)


def test_what_a_file_says_is_what_the_engine_reads() -> None:
    found = plugins.evaluation("semi_supervised")
    config = replace(SemiSupervised(), label_fraction=0.1, tests=4)
    assert found is plugins.evaluation_of(config)
    assert (found.needs_projector, found.resumes, found.label_fraction(config)) == (True, True, 0.1)
    assert found.passes(config) == config.passes()
    assert found.trains_network(config)
    assert "10% of the labels" in found.describe(config)
    assert plugins.method_of(SimCLR()).name == "simclr"
    assert plugins.method_of(SimCLR()).recipes["paper"].batch_size == 4096


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "RESUMS = True",
            (
                r"unknown name in .*evals/.*'RESUMS'\. Did you mean 'RESUMES'\? Allowed: DIFFERENCES, FEATURES, "
                r"METRICS, .*begins with an underscore"
            ),
        ),
        ("NEEDS_PROJEKTOR: bool = True", "Did you mean 'NEEDS_PROJECTOR'"),
        ("NEIGHBOURS = 20", "A constant of your own begins with an underscore: _NEIGHBOURS"),
        ("RESUMES = 1", "RESUMES is 1, expected a bool"),
        ("DIFFERENCES = ['one']", r"DIFFERENCES is \['one'\], expected a tuple"),
        (
            "DIFFERENCES = ('one',)",
            "DIFFERENCES has 'one', expected objects of Difference whose five texts say something",
        ),
        ("FEATURES = ('train', 'tset')", "split in FEATURES of .*evals/.*'tset'. Did you mean 'test'"),
        ("FEATURES = 'train'", "FEATURES is 'train', expected a tuple"),
        ("MISSING = 'a package'", "MISSING is 'a package', expected a callable"),
        ("METRICS = {'nothing': '%'}", "METRICS is .* expected a mapping from names to objects of Metric"),
        ("VARIANTS = {'paper': {'embedded': 3}}", r"VARIANTS\['paper'\] is .* objects of Config"),
        ("del evaluate", "must export evaluate"),
        ("del RECIPES", "must export RECIPES"),
        ("try:\n    RESUMS = True\nfinally:\n    pass", "Did you mean 'RESUMES'"),
        ("@dataclass\nclass Config:\n    pass", "expected a frozen dataclass"),
        (
            "import no_such_module",
            r"cannot be imported \(ModuleNotFoundError: .*no_such_module.*, line \d+ of .*\.py\)",
        ),
        ("x = (", "cannot be imported .*SyntaxError"),
        (
            "evaluate_in_steps = evaluate",
            "evaluate_in_steps is for an .* that keeps its state: expected RESUMES = True",
        ),
        ("Config = 3", "Config is 3, expected a frozen dataclass"),
    ],
)
def test_what_a_file_cannot_mean_is_one_line(write: Callable[..., str], line: str, message: str) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        plugins.evaluation(write(f"{EVALUATION}\n{line}\n"))
    assert "\n" not in str(caught.value)


def test_a_type_variable_and_a_none_for_features_are_as_the_contract_says(write: Callable[..., str]) -> None:
    name = write(f"{EVALUATION}\nfrom typing import TypeVar\nT = TypeVar('T')\nFEATURES = None\n")
    assert plugins.evaluation(name).features is None


def test_a_cost_of_before_answers_with_a_warning(write: Callable[..., str]) -> None:
    text = EVALUATION.replace(
        "    VERSION: int = 3\n", "    VERSION: int = 3\n    def cost(self, backbone): return 3.0, 'core', 'a guess'\n"
    )
    found = plugins.evaluation(write(text))
    with pytest.warns(FutureWarning, match=r"cost\(\) returns a bench.contracts.Cost since version 0.2"):
        assert found.cost(found.recipes["embedded"], Backbone(name="resnet10")) == Cost(3.0, "core", "a guess")


def test_a_file_with_the_name_of_a_package_is_named_with_what_hides_it(
    write: Callable[..., str], tmp_path: Path
) -> None:
    write(EVALUATION)
    (tmp_path / "evals" / "detection.py").write_text(EVALUATION)
    plugins._package.cache_clear()
    with pytest.raises(
        BenchError, match=r"evals/detection.py has the name of .*detection/__init__.py.* give it another"
    ):
        plugins.evaluation("detection")


def test_a_file_that_cannot_be_read_is_listed_as_such(write: Callable[..., str]) -> None:
    assert "cannot be read (SyntaxError" in plugins.summary("evaluation", write("x = ("))


def test_of_two_files_with_one_name_the_project_s_is_read(write: Callable[..., str], tmp_path: Path) -> None:
    write(METHOD, "methods")
    (tmp_path / "methods" / "simclr.py").write_text('"""Another."""\n')
    (tmp_path / "methods" / "simclr.toml").write_text("hours = 3")
    plugins._package.cache_clear()
    assert plugins.summary("method", "simclr").startswith("SimCLR")
    assert "simclr" not in authors.hours()
    assert "simclr_1x" in authors.own_names()


def test_private_and_imported_constants_are_no_ones_business(write: Callable[..., str]) -> None:
    assert plugins.evaluation(
        write(f"{EVALUATION}\n_NEIGHBOURS = 20\nfrom evals.svm import VARIANTS as OTHERS\n")
    ).metrics


def test_methods_are_read_the_same_way(write: Callable[..., str]) -> None:
    name = write(METHOD, "methods")
    found = plugins.method(name)
    assert found.variants == {}
    found.check(found.recipes["paper"].method, tiny_pretrain())  # it has none of its own: nothing is refused
    with pytest.raises(BenchError, match=r"unknown name in .*methods/.*Did you mean 'VARIANTS'"):
        _again(write(f"{METHOD}\nVARIANT = {{}}\n", "methods"))
    with pytest.raises(BenchError, match="each Recipe's method must be an object of its Config"):
        _again(write(f"{METHOD}\nRECIPES = simclr.RECIPES\n", "methods"))


def _again(name: str) -> None:
    importlib.invalidate_caches()
    importlib.reload(importlib.import_module(f"methods.{name}"))
    plugins.method.cache_clear()
    plugins.method(name)


def test_what_authors_published_lies_beside_a_method(write: Callable[..., str]) -> None:
    beside = """
    [hours]
    source = "a blog"
    epochs = 100
    hours = 8
    devices = 4
    [weights.mine_1x]
    paper = "Mine"
    network = "resnet50"
    width = 2
    url = "https://example.org/mine.pth"
    """
    name = write(METHOD, "methods", beside)
    assert authors.hours()[name] == authors.Hours(source="a blog", epochs=100, hours=8, devices=4)
    mine = authors.weights("mine_1x")
    assert (mine.backbone.width, mine.backbone.normalize, mine.top1) == (2, "imagenet", None)
    assert "simclr_1x" in authors.catalogue()


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ("[ours]", "unknown section in .*Did you mean 'hours'"),
        ("[hours", "is not valid TOML"),
        ("[hours]\nsource = 'a'\nepochs = 1\nhours = 1", "hours lacks devices"),
        (
            "[weights.x]\npaper = 'p'\nnetwork = 'resnet50'\nurls = 'u'",
            r"unknown key of .*weights\.x 'urls'. Did you mean 'url'",
        ),
        ("[weights.x]\npaper = 'p'\nurl = 'u'", r"weights\.x lacks network"),
        ("weights = 3", "weights is 3, expected a section"),
        ("[weights]\nx = 3", r"weights\.x is 3, expected a section"),
        ("hours = '9'", "hours is '9', expected a section"),
        ("[hours]\nsource = 'a'\nepochs = 1\nhours = 0\ndevices = 1", r"hours\.hours is 0, expected a number above 0"),
        (
            "[hours]\nhour = 1",
            r"unknown key of .*hours 'hour'. Did you mean 'hours'\? Allowed: devices, epochs, hours, source",
        ),
        ("[weights.x]\npaper = 'p'\nnetwork = 'resnet50'\nwidth = '2'", r"x\.width is '2', expected a whole number"),
        (
            "[weights.x]\npaper = 'p'\nnetwork = 'r'\nnormalize = 'bogus'",
            "unknown normalize of .* 'bogus'. .*Allowed: imagenet",
        ),
        ("[weights.x]\npaper = 'p'\nnetwork = 'r'\nsha256 = 5", r"x\.sha256 is 5, expected some text"),
        ("[weights.x]\npaper = 'p'\nnetwork = 'r'\nbackbone = 'r'", "unknown key of .* 'backbone'"),
        ("[weights.simclr_1x]\npaper = 'p'\nnetwork = 'resnet50'", "stands in another file as well"),
    ],
)
def test_what_lies_beside_a_method_is_checked(write: Callable[..., str], beside: str, message: str) -> None:
    write(METHOD, "methods", beside)
    with pytest.raises(BenchError, match=message):
        (authors.catalogue(), authors.hours())


def test_an_unknown_table_and_one_that_exports_nothing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = importlib.import_module("results.tables")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    (tmp_path / "empty_table_of_mine.py").write_text('"""Empty."""\n')
    with pytest.raises(BenchError, match=r"empty_table_of_mine\.py must export TABLE"):
        plugins.table("empty_table_of_mine")
    with pytest.raises(BenchError, match=r"unknown table 'simclr_table66'\. Did you mean"):
        plugins.table("simclr_table66")
