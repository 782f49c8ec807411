"""Section [recipe] of bench.toml: what a user changes in all recipes, and what becomes of the jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import plugins
from bench.bench_toml import read_site
from bench.errors import BenchError
from bench.identity import job_id
from bench.planning.scales import scale_of
from bench.runs import plans
from bench.runs.folder import Runs
from bench.settings.overrides import AS_PUBLISHED, Overrides
from bench.spec import Evaluate, Pretrain
from reports.text.tables import to_markdown
from results.cells import load_table, plan_table
from results.store import Store
from results.view import view

ALL = Overrides(chunks=4, compile=True, exact_views=True, precision="fp16", data=(("imagenet", "imagenet-256"),))


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "bench.toml"
    file.write_text(text)
    return file


def ids(scale: str, overrides: Overrides) -> set[str]:
    return {job_id(cell.spec) for cell in plan_table(load_table("simclr_table6"), scale_of(scale, overrides), 1).cells}


def test_the_section_is_read(tmp_path: Path) -> None:
    text = (
        '[recipe]\nchunks = 4\ncompile = true\nexact_views = true\nprecision = "fp16"\n'
        'data = { imagenet = "imagenet-256" }\n'
    )
    assert read_site(written(tmp_path, text)).overrides == ALL
    assert read_site(written(tmp_path, "")).overrides == AS_PUBLISHED


def test_chunks_may_be_of_some_methods_and_widths_alone(tmp_path: Path) -> None:
    text = '[recipe]\nchunks = { simclr = 2, "simclr 4x" = 8 }\n'
    chosen = read_site(written(tmp_path, text)).overrides
    assert chosen == Overrides(chunks_of=(("simclr", 2), ("simclr 4x", 8)))
    assert chosen.sentence() == "Chosen in bench.toml: 2 chunks a step of simclr, 8 chunks a step of simclr 4x."
    cells = plan_table(load_table("simclr_table6"), scale_of("paper", chosen), 1).cells
    encoders = {e for cell in cells if isinstance(cell.spec, Evaluate) and isinstance(e := cell.spec.encoder, Pretrain)}
    found = {(plugins.name_of(spec.method), spec.backbone.width, spec.chunks) for spec in encoders}
    assert found == {("simclr", 1, 2), ("simclr", 2, 2), ("simclr", 4, 8), ("moco", 1, 1), ("moco", 4, 1)} | {
        each for each in found if each[0] not in ("simclr", "moco")
    }
    assert all(chunks == 1 for method, _, chunks in found if method != "simclr")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("chunk = 2", "unknown key in .recipe. of .*bench.toml 'chunk'. Did you mean 'chunks'"),
        ("chunks = 0", "recipe.chunks is 0, expected a whole number of at least 1"),
        ("chunks = true", "recipe.chunks is True, expected a whole number"),
        ("precision = 16", 'recipe.precision is 16, expected "fp32" or "tf32" or "fp16" or "bf16"'),
        ('precision = "half"', "recipe.precision is 'half', expected .fp32"),
        ("compile = 1", "recipe.compile is 1, expected true or false"),
        ('data = "imagenet-256"', "recipe.data is 'imagenet-256', expected a table"),
        (
            'data = { imagenet = "imagenet-265" }',
            "unknown data set in recipe.data of .* 'imagenet-265'. Did you mean 'imagenet-256'",
        ),
        (
            'data = { imagenet = ["imagenet-256"] }',
            r"recipe.data.imagenet is \['imagenet-256'\], expected the name of a data set",
        ),
        (
            'data = { imagenet = "cifar10" }',
            "puts cifar10 in the place of imagenet, but it has 10 classes instead of 1000",
        ),
        ('data = { coco = "scenes_voc" }', "puts scenes_voc in the place of coco, but"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, line: str, error: str) -> None:
    with pytest.raises(BenchError, match=error):
        read_site(written(tmp_path, f"[recipe]\n{line}\n"))


def test_a_choice_makes_other_jobs_where_it_changes_something_and_only_there() -> None:
    plain = {name: ids(name, AS_PUBLISHED) for name in ("embedded", "paper")}
    for choice in (Overrides(chunks=2), Overrides(compile=True), Overrides(precision="fp16")):
        assert not ids("embedded", choice) <= plain["embedded"]
        assert not ids("paper", choice) <= plain["paper"]
    for choice in (Overrides(exact_views=True), Overrides(data=(("imagenet", "imagenet-256"),))):
        assert ids("embedded", choice) == plain["embedded"]
        assert not ids("paper", choice) <= plain["paper"]


def test_at_the_papers_scale_the_chosen_data_are_read_and_named() -> None:
    table, scale = load_table("simclr_table6"), scale_of("paper", ALL)
    specs = [cell.spec for cell in plan_table(table, scale, 1).cells]
    trained = [spec.encoder for spec in specs if isinstance(spec, Evaluate) and isinstance(spec.encoder, Pretrain)]
    assert {spec.data.name for spec in specs} == {spec.data.name for spec in trained} == {"imagenet-256"}
    assert all(made.compile and made.chunks == 4 and all(v.exact for v in made.views) for made in trained)


def test_the_table_says_what_was_chosen(tmp_path: Path) -> None:
    table, store = load_table("simclr_table6"), Store(Runs(tmp_path / "runs"))
    chosen = view(plan_table(table, scale_of("paper", ALL), 1), store)
    said = (
        "Chosen in bench.toml: imagenet-256 in the place of imagenet, 4 chunks a pretraining step, compiled "
        "encoders, fp16 in all trainings, views by Pillow."
    )
    assert said in to_markdown(chosen)
    assert "imagenet-256" in chosen.protocols["Top-1"]
    assert "Chosen in bench.toml" not in to_markdown(view(plan_table(table, scale_of("paper"), 1), store))
    assert "Pretraining in fp16." in to_markdown(chosen)
    assert "backbone in fp16" in chosen.protocols["Top-1"]
    assert "Pillow" not in view(plan_table(table, scale_of("embedded", ALL), 1), store).overrides


def test_a_table_says_in_which_precision_and_groups_of_batch_norm_each_method_is_trained(tmp_path: Path) -> None:
    store = Store(Runs(tmp_path / "runs"))
    said = {
        (name, scale): view(plan_table(load_table(name), scale_of(scale), 1), store).precision
        for name, scale in (
            ("simclr_table6", "embedded"),
            ("simclr_table6", "paper"),
            ("barlow_table1", "paper"),
        )
    }
    rest = "tf32 (byol, moco, simclr, simsiam, supervised). Batch norm over groups of 32 images (moco) and 512 images "
    assert list(said.values()) == [
        "Pretraining in bf16.",
        "Pretraining in tf32. Batch norm over groups of 32 images (moco).",
        f"Pretraining in fp16 (barlow_twins, swav) and {rest}(swav).",
    ]


def test_a_run_remembers_its_choices(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    for overrides in (AS_PUBLISHED, ALL, replace(ALL, chunks_of=(("fnc", 8),))):
        made = plans.StoredPlan("t", "paper", 1, (), (), (), overrides)
        plans.write(runs, made)
        assert plans.read_all(runs) == [made]
