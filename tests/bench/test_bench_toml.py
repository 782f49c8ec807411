from __future__ import annotations

from pathlib import Path

import pytest

from bench.bench_toml import find_site
from bench.data.catalogue import CATALOGUE
from bench.data.sets.lists import PUBLISHED
from bench.errors import BenchError


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "bench.toml").write_text(text)
    return tmp_path


def test_paths_are_relative_to_the_file_and_found_from_below(tmp_path: Path) -> None:
    write(tmp_path, '[paths]\nruns = "r"\n[data]\nimagenet = "/data/in1k"\n[local]\nslots = 3\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    site = find_site(below)
    assert site.runs == tmp_path / "r"
    assert site.output == tmp_path / "results/out"
    assert site.data["imagenet"] == Path("/data/in1k")
    assert site.slots == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[path]\n", r"unknown section in .* 'path'. Did you mean 'paths'"),
        ("[local]\nslot = 2\n", r"unknown key in \[local\] .* 'slot'. Did you mean 'slots'"),
        ("[local]\nchunks = 4\n", r"chunks stands under \[recipe\], not \[local\]"),
        ("[price]\ngpu_hours = 2\n", r"unknown key in \[price\] .* 'gpu_hours'. Did you mean 'gpu_hour'"),
        ("[price]\ngpu_hour = 0\n", r"price.gpu_hour is 0, expected a number above 0"),
        ('[price]\ngpu_hour = "2.50"\n', r"price.gpu_hour is '2.50', expected a number above 0"),
        ("[price]\ncore_hour = true\n", r"price.core_hour is True, expected a number above 0"),
        ("[price]\ngpu_hour = 2\ncurrency = 3\n", r"price.currency is 3, expected a short name in quotes"),
        ('[price]\ncurrency = "EUR"\n', r"\[price\] says no price: give gpu_hour, core_hour, or both"),
        ("[local]\nworkers = -1\n", r"local.workers is -1, expected at least 1"),
        ("[local]\nslots = 0\n", r"local.slots is 0, expected a positive number"),
        ("[local]\nslots = -1\n", r"local.slots is -1, expected at least 1"),
        ('[local]\nthreads = "two"\n', r"local.threads is 'two', expected a positive number"),
        (
            "[local]\ncheckpoint_activations = 2\n",
            r'local.checkpoint_activations is 2, expected true or false, or "auto"',
        ),
        ('[local]\ndeterministic = "auto"\n', r"local.deterministic is 'auto', expected true or false\."),
        ("[local]\ngpu_memory = 0\n", r"local.gpu_memory is 0, expected a positive number"),
        ("[recipe]\nchunks = { simcrl = 4 }\n", r"unknown method in recipe.chunks .*simclr"),
        ("[recipe]\nchunks = { simclr = 0 }\n", r"recipe.chunks of simclr is 0, expected a whole number"),
        ('[recipe]\nchunks = { "simclr x4" = 2 }\n', r"'simclr x4', expected a method, or one and a width"),
        (
            "[recipe]\ncompile = true\n[local]\ncheckpoint_activations = true\n",
            r"cannot both be true.*leave one of them",
        ),
        ("[local]\ndeterministic = 1\n", r"local.deterministic is 1, expected true or false"),
        ("[paths]\nruns = 3\n", r"paths.runs is 3, expected a path"),
        ("[paths\n", "is not valid TOML"),
        ("local = 3\n", r"must be a section"),
        (
            '[data]\nimagnet = "/data"\n',
            r"unknown data set or list in \[data\] of .*toml 'imagnet'\. Did you mean 'imagenet'",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        find_site(write(tmp_path, text))


def test_activations_are_computed_twice_where_memory_asks_for_it_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert find_site(write(tmp_path, "[local]\nslots = 1\n")).checkpoint_activations == "auto"
    assert find_site(write(tmp_path, "[local]\ncheckpoint_activations = true\n")).checkpoint_activations


def test_kernels_are_deterministic_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert find_site(write(tmp_path, "[local]\nslots = 1\n")).deterministic
    assert not find_site(write(tmp_path, "[local]\ndeterministic = false\n")).deterministic


def test_every_data_set_and_list_may_have_a_place(tmp_path: Path) -> None:
    names = {*CATALOGUE, *PUBLISHED}
    text = "".join(f'"{name}" = "/data/{name}"\n' for name in names)
    assert find_site(write(tmp_path, f"[data]\n{text}")).data.keys() == names


def test_a_data_set_without_a_folder_says_what_to_write(tmp_path: Path) -> None:
    site = find_site(write(tmp_path, '[data]\nimagenet = "gone"\n'))
    with pytest.raises(BenchError, match=r"add `cifar10 = "):
        site.data_root("cifar10")
    with pytest.raises(BenchError, match=r"gone .* is not a folder"):
        site.data_root("imagenet")


def test_workers_are_as_many_as_the_file_says_and_else_follow_the_device(tmp_path: Path) -> None:
    for cores, workers in ((1, 1), (2, 1), (8, 7), (13, 12), (64, 12)):
        assert [find_site(tmp_path).loader_workers(device, cores) for device in ("cpu", "cuda")] == [0, workers]
    site = find_site(write(tmp_path, "[local]\nworkers = 3\n"))
    assert [site.loader_workers(device) for device in ("cpu", "cuda")] == [3, 3]
    assert find_site(write(tmp_path, "[local]\nworkers = 0\n")).loader_workers("cuda") == 0


PATHS = (
    '[paths]\nruns = "{0}"\noutput = "{0}"\nreport = "{0}"\n[data]\nimagenet = "{0}"\n[released]\nsimclr_1x = "{0}"\n'
)


def every_path(tmp_path: Path, text: str) -> set[Path | None]:
    site = find_site(write(tmp_path, PATHS.format(text)))
    return {site.runs, site.output, site.report, site.data["imagenet"], site.released["simclr_1x"].path}


@pytest.mark.parametrize("text", ["~/x", "$SCRATCH/x", "${SCRATCH}/x", "$FIRST$SECOND/x"])
def test_home_and_variables_are_meant_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name, value in {"HOME": "/there", "SCRATCH": "/there", "FIRST": "/th", "SECOND": "ere"}.items():
        monkeypatch.setenv(name, value)
    assert every_path(tmp_path, text) == {Path("/there/x")}


@pytest.mark.parametrize("text", ["50%/a b", "a&b;c", "it's", "$100", "semi_1%train"])
def test_every_other_character_of_a_path_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / "$100").mkdir()  # what is there is what is meant
    assert every_path(tmp_path, text) == {tmp_path / text}


def test_a_path_that_cannot_be_made_whole_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRATCH", raising=False)
    with pytest.raises(BenchError, match=r"paths.runs is '\$SCRATCH/x', but there is no variable SCRATCH"):
        every_path(tmp_path, "$SCRATCH/x")
    with pytest.raises(BenchError, match=r"'~no-such-user/x', but there is no home folder \(this machine knows no"):
        every_path(tmp_path, "~no-such-user/x")

    def nobody(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)  # of a user id without an entry in passwd
    with pytest.raises(BenchError, match=r"'~/x', but there is no home folder \(HOME is not set and this user has no"):
        every_path(tmp_path, "~/x")
