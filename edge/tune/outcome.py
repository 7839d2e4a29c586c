"""What a search comes to: which recipe is chosen, whether it keeps the bars, and its evidence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cattrs
from attrs import evolve

from edge import __version__
from edge.files import data_dir, write_text
from edge.measure.statistics import mcnemar
from edge.pipeline.stages import EXPORT
from edge.specs import Evidence, Precision, is_searched
from edge.tune.context import Context, Options
from edge.tune.journal import Entry
from edge.tune.result import Front, Measured, Point, TuneResult, shares
from edge.tune.search import Step
from edge.tune.trials import LEVEL, measured

IN_BUILD = "recipe.yaml"


def place(model: str, folder: Path) -> Path:
    """Return where a model's recipe belongs: with the others in a checkout, else in its build folder.

    A shared recipe that happens to have the model's name, such as ``convnext``, is left alone.

    Raises:
        SpecError: a file of that name breaks the schema.
    """
    recipes = data_dir("mapper_yaml") / "precision"
    in_checkout = (recipes.parent.parent / "pyproject.toml").is_file()
    shared = recipes / f"{model}.yaml"
    if in_checkout and os.access(recipes, os.W_OK) and (not shared.exists() or is_searched(shared)):
        return shared
    return folder / IN_BUILD


def write(path: Path, precision: Precision) -> None:
    """Write a recipe, whole or not at all; :func:`edge.specs.load_precision` reads it back as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text(precision))


def text(precision: Precision) -> str:
    """Return a recipe as YAML, defaults left out."""
    data = {key: value for key, value in _plain(precision).items() if value not in ("", None, [])}
    lines = []
    for key, value in data.items():
        if key == "nodes" and value:
            lines.append("nodes:")
            lines += [f"  {_flow(node)}: {_flow(setting)}" for node, setting in value.items()]
        elif key == "evidence":
            lines.append("evidence:")
            lines += [f"  {name}: {_flow(item)}" for name, item in value.items() if item is not None]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _plain(precision: Precision) -> dict[str, Any]:
    data: dict[str, Any] = cattrs.unstructure(precision)
    data["rewrites"] = list(precision.rewrites)
    data["nodes"] = {
        node: {key: value for key, value in setting.items() if value is not None}
        for node, setting in data["nodes"].items()
    }
    data["calibration"] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in data["calibration"].items()
        if value not in (None, (), [], False)
    }
    return data


def _flow(value: object) -> str:
    """Return a value as YAML on one line. ``on`` is quoted, since YAML 1.1 has it for true."""
    import yaml

    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


SIGNIFICANT = 0.05
TIE = 0.01  # of plain int8's divergence: recipes that are no further apart count as equally true


def chosen_of(points: Sequence[Point], options: Options, budget: float) -> tuple[int | None, str]:
    """Return the best that keeps the bars on the pictures of the search, and why.

    Of those that lie within a hundredth of plain int8's divergence of the truest, the fastest is the best.
    """
    good = [
        (point.latency_us, point.selection.divergence, i)
        for i, point in enumerate(points)
        if point.selection is not None
        and point.latency_us is not None
        and point.latency_us <= budget
        and passes(point.selection, options)
    ]
    if not good:
        return None, "no recipe keeps both bars on the pictures of the search"
    least = min(divergence for _, divergence, _ in good)
    before = points[0].selection
    near = least + TIE * (before.divergence if before is not None else 0.0)
    best = min(row for row in good if row[1] <= near)[2]
    if best == 0:
        return 0, "plain int8 is the best of what keeps the bars"
    return best, f"{points[best].name}: the fastest of those nearest to float that keep the bars"


def passes(found: Measured, options: Options) -> bool:
    """Tell whether accuracy keeps the bars. A loss of Top-1 that may be chance is none."""
    if options.min_agreement is not None and found.agreement_percent < options.min_agreement:
        return False
    return (
        found.drop is None
        or found.drop <= options.max_drop
        or mcnemar(found.lost, found.gained) >= SIGNIFICANT
    )


def outcome(
    search: Context,
    points: Sequence[Point],
    path: Sequence[Step],
    chosen: int | None,
    why: str,
    budget: float,
) -> TuneResult:
    """Return the whole result; the chosen recipe carries its evidence."""
    halves, unlabelled = search.halves
    export = search.build.stage(EXPORT)
    entries = tuple(search.journal.used.values())
    best = None if chosen is None else points[chosen]
    met = best is not None and best.report is not None and passes(best.report, search.options)
    if best is not None and not met:
        why += "; on the pictures kept back it misses a bar"
    result = TuneResult(
        model=search.request.spec.name,
        command=search.options.command,
        float_sha256=export.sha256(export.result.onnx),
        seed=search.request.seed,
        level=search.request.precision.compiler.optimize_level,
        cost_level=LEVEL,
        selection=halves.selection.description,
        report=halves.report.description,
        unlabelled=unlabelled,
        max_drop=search.options.max_drop,
        max_latency_us=budget,
        min_agreement=search.options.min_agreement,
        points=tuple(points),
        path=tuple(Front(step.units, step.damage, step.latency) for step in path),
        chosen=chosen,
        met=met,
        why=why,
        trials=entries,
        time=shares(entries),
        seconds=round(search.journal.spent, 1),
        left_out=tuple(dict.fromkeys(search.left_out)),
        versions=_versions(search),
    )
    if best is None:
        return result
    told = evolve(best, precision=evolve(best.precision, evidence=_evidence(result, best)))
    return evolve(result, points=tuple(told if point is best else point for point in points))


def point_of(name: str, precision: Precision, entry: Entry) -> Point:
    """Return a shipping trial as a point."""
    if entry.failed:
        return Point(name, precision, failed=entry.failed)
    return Point(name, precision, latency(entry), measured(entry), bit_exact=entry.values["bit_exact"])


def figures(entry: Entry) -> Measured:
    """Return the accuracy in an entry that did not fail."""
    return cattrs.structure(entry.values["measured"], Measured)


def latency(entry: Entry) -> float:
    """Return the latency in an entry that did not fail, microseconds."""
    return float(entry.values["latency_us"])


def accuracy(found: Measured | None) -> str:
    """Return accuracy in a few words."""
    if found is None:
        return "no figures"
    top1 = "" if found.top1 is None else f"Top-1 {found.float_top1:.1f} → {found.top1:.1f} %, "
    return f"{top1}agreement {found.agreement_percent:.1f} %, divergence {found.divergence:.5f}"


def _versions(search: Context) -> dict[str, str]:
    first = search.journal.of_kind("ship")[0]
    return {
        "edge": __version__,
        "onnxruntime": version("onnxruntime"),
        **{str(key): str(value) for key, value in first.values.get("versions", {}).items()},
    }


def _evidence(result: TuneResult, best: Point) -> Evidence | None:
    own, int8 = best.report, result.points[0].report
    if own is None or int8 is None:
        return None
    return Evidence(
        float_sha256=result.float_sha256,
        chosen_on=result.selection,
        reported_on=result.report,
        n=own.n,
        agreement=round(own.agreement_percent, 3),
        agreement_int8=round(int8.agreement_percent, 3),
        top1_float=_rounded(own.float_top1),
        top1=_rounded(own.top1),
        top1_int8=_rounded(int8.top1),
        latency_us=best.latency_us,
        latency_us_int8=result.points[0].latency_us,
        seed=result.seed,
        versions=result.versions,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
