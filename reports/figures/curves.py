"""Lines over steps, epochs and learning rates: training curves, accuracy over epochs, a linear evaluation's sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.files import Json
from reports.figures import sketch, svg
from reports.figures.sketch import Key, Line, Panel, Point
from reports.words import is_number, row

Curves = Sequence[Mapping[str, float]]

NOT_A_TERM = ("step", "steps", "epoch", "img_s", "seconds")


def training_curves(runs: Sequence[tuple[str, Curves]], *, name: str, title: str) -> str:
    """Every logged term over the steps, a panel each, the loss first.

    Runs of one label share a colour. "" without a point.
    """
    found = [(label, series_of(curves)) for label, curves in runs]
    terms = sorted(
        {term for _, series in found for term in series}, key=lambda term: (term != "loss", term == "lr", term)
    )
    styles = _styles(label for label, _ in runs)
    panels = [_panel([(label, series.get(term, ())) for label, series in found], term, styles) for term in terms]
    return sketch.draw(panels, name=name, title=title, keys=_keys(styles))


def small_multiples(groups: Mapping[str, Sequence[tuple[str, Curves]]], *, term: str, name: str, title: str) -> str:
    """One term of many runs, a panel for each group (a method, say), since losses of two methods share no scale.

    Runs of one label share a colour, and a label keeps it over the panels.
    """
    styles = _styles(label for runs in groups.values() for label, _ in runs)
    panels = [
        _panel([(label, series_of(curves, term).get(term, ())) for label, curves in runs], group, styles)
        for group, runs in groups.items()
    ]
    return sketch.draw(panels, name=name, title=title, keys=_keys(styles))


def series_of(curves: Curves, only: str = "") -> dict[str, list[Point]]:
    """Term -> (step, value) of every line that has both; with `only` that term alone.

    One pass: a report reads millions of values.
    """
    found: dict[str, list[Point]] = {}
    for line in curves:
        step = line.get("step")
        if is_number(step):
            for term, value in ((only, line.get(only)),) if only else line.items():
                if term not in NOT_A_TERM and not term.endswith("_ms") and is_number(value):
                    found.setdefault(term, []).append((step, value))
    return found


def probe_figure(probes: Sequence[tuple[str, Sequence[Point]]], *, name: str, title: str) -> str:
    """Top-1 on the test split over the epochs of an evaluation, a line for each label. "" without a point."""
    styles = _styles(label for label, _ in probes)
    lines = [
        Line(points=points, **svg.style(styles[svg.clean(label)]), marks=len(points) <= 30)
        for label, points in probes
        if points
    ]
    panel = Panel(lines=lines, x="epoch of the evaluation", y="top-1, test split (%)")
    return sketch.draw([panel], name=name, title=title, width=6.2, height=3.1, keys=_keys(styles))


def probe_of(details: Mapping[str, Json]) -> list[Point]:
    """(epoch, top-1 in percent) while an evaluation trained: `test_top1_by_epoch`, or `tests` or `curve` with both."""
    by_epoch = row(details.get("test_top1_by_epoch"))
    if by_epoch:
        return [(float(epoch), top1) for epoch, top1 in enumerate(by_epoch, start=1)]
    for key in ("tests", "curve"):
        entries = details.get(key)
        pairs = (
            [(one.get("epoch"), one.get("top1")) for one in entries if isinstance(one, dict)]
            if isinstance(entries, list)
            else []
        )
        found = [(float(epoch), float(top1)) for epoch, top1 in pairs if is_number(epoch) and is_number(top1)]
        if found:
            return found
    return []


def sweep_figure(details: Mapping[str, Json], *, name: str, title: str) -> str:
    """Validation accuracy over the learning rate, a line for each weight decay, the chosen head ringed.

    "" without a sweep.

    A logistic regression has penalties in place of rates, and one line.
    """
    heads = heads_of(details.get("sweep"))
    if not heads:
        return _path_figure(details, name=name, title=title)
    rates, decays = sorted({head[0] for head in heads}), sorted({head[1] for head in heads})
    lines, keys = [], []
    for place, decay in enumerate(decays):
        points = sorted((float(rates.index(rate)), value) for rate, other, value in heads if other == decay)
        lines.append(
            Line(
                points=points, colour=svg.RAMP[round(place * (len(svg.RAMP) - 1) / max(1, len(decays) - 1))], marks=True
            )
        )
        keys.append(Key(label=f"weight decay {decay:g}", line=lines[-1]))
    chosen = heads_of([details.get("chosen")])
    if chosen and chosen[0][0] in rates:
        lines.append(Line(points=[(float(rates.index(chosen[0][0])), chosen[0][2])], colour=svg.SERIES[1], ring=True))
        keys.append(Key(label="chosen", line=lines[-1]))
    # Rates stand at equal distances: grids are near-geometric, and a rate of 0 has no logarithm.
    ticks = [(float(place), f"{rate:g}") for place, rate in enumerate(rates)]
    panel = Panel(lines=lines, x="learning rate", y="top-1, held-out split (%)", ticks=ticks)
    return sketch.draw([panel], name=name, title=title, width=6.2, height=3.1, keys=keys)


def best_of_sweeps(sweeps: Sequence[tuple[str, Mapping[str, Json]]], *, name: str, title: str) -> str:
    """The best head of each learning rate, a line for each label: whether the grid was wide enough for all.

    "" without a sweep.
    """
    found = [(label, heads) for label, details in sweeps if (heads := heads_of(details.get("sweep")))]
    rates = sorted({head[0] for _, heads in found for head in heads})
    if len(rates) < 2:
        return ""
    styles = _styles(label for label, _ in found)
    lines = []
    for label, heads in found:
        best = {
            rate: max(value for other, _, value in heads if other == rate)
            for rate in sorted({head[0] for head in heads})
        }
        points = [(float(rates.index(rate)), value) for rate, value in best.items()]
        lines.append(Line(points=points, **svg.style(styles[svg.clean(label)]), marks=True))
    ticks = [(float(place), f"{rate:g}") for place, rate in enumerate(rates)]
    panel = Panel(lines=lines, x="learning rate", y="top-1, held-out split (%)", ticks=ticks)
    return sketch.draw([panel], name=name, title=title, width=6.2, height=3.1, keys=_keys(styles))


def heads_of(sweep: object) -> list[tuple[float, float, float]]:
    """(learning rate, weight decay, accuracy) of every entry that has all three."""
    entries = [entry for entry in sweep if isinstance(entry, dict)] if isinstance(sweep, list) else []
    found = [tuple(entry.get(key) for key in ("learning_rate", "weight_decay", "val_top1")) for entry in entries]
    return [(a, b, c) for a, b, c in found if is_number(a) and is_number(b) and is_number(c)]


def _path_figure(details: Mapping[str, Json], *, name: str, title: str) -> str:
    path, by = details.get("path"), details.get("chosen_by")
    entries = [entry for entry in path if isinstance(entry, dict)] if isinstance(path, list) else []
    found = [(entry.get("penalty"), entry.get(by)) for entry in entries if isinstance(by, str)]
    heads = sorted((float(a), float(b)) for a, b in found if is_number(a) and is_number(b))
    if not heads:
        return ""
    every = max(1, len(heads) // 6)
    ticks = [(float(place), f"{penalty:.1e}") for place, (penalty, _) in enumerate(heads) if place % every == 0]
    lines = [
        Line(points=[(float(place), value) for place, (_, value) in enumerate(heads)], colour=svg.SERIES[0], marks=True)
    ]
    chosen = details.get("chosen")
    penalties = [penalty for penalty, _ in heads]
    penalty = chosen.get("penalty") if isinstance(chosen, dict) else None
    keys = []
    if is_number(penalty) and penalty in penalties:
        place = penalties.index(penalty)
        lines.append(Line(points=[(float(place), heads[place][1])], colour=svg.SERIES[1], ring=True))
        keys = [Key(label="chosen", line=lines[-1])]
    return sketch.draw(
        [Panel(lines=lines, x="penalty", y=f"{by}, held-out split (%)", ticks=ticks)],
        name=name,
        title=title,
        width=6.2,
        height=3.1,
        keys=keys,
    )


def _panel(runs: Sequence[tuple[str, Sequence[Point]]], title: str, styles: Mapping[str, int]) -> Panel:
    return Panel(
        lines=[Line(points=points, **svg.style(styles[svg.clean(label)])) for label, points in runs if points],
        title=title,
        x="step",
    )


def _styles(labels: Iterable[str]) -> dict[str, int]:
    return {label: place for place, label in enumerate(dict.fromkeys(svg.clean(label) for label in labels))}


def _keys(styles: Mapping[str, int]) -> list[Key]:
    """No legend for one label: the page names it."""
    if len(styles) < 2:
        return []
    return [Key(label=svg.short(label), line=Line(points=(), **svg.style(place))) for label, place in styles.items()]
