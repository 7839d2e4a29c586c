"""The page about all models, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from edge.specs import ModelSpec, Published
from edge.survey.record import Counted, Record, Records

TOLERANCE = 2.0  # percent
NONE = "-"
GB, MB = 1e9, 1e6

Models = Mapping[str, ModelSpec | None]  # None: records without a YAML

HEAD = """# The models, measured

Written by `{command}`; do not edit.

Sizes, placement and speed are measured here; published figures stand beside. "{none}" means not measured.
"""

SIZE = """
## Size and placement

"Export error" is the largest difference between the scores of the exported ONNX and of its framework on the
same noise, as a share of the range of the scores.

Parameters and multiply-accumulates (MACs) are counted on the exported ONNX by onnx-tool. MACs cover
convolutions and matrix products, including attention; a multiplication and the addition after it count as one.
Published "FLOPs" of these families are such MACs. Normalisation, activation functions, softmax, pooling and
additions of two tensors are not counted: "beside" gives their operations in percent of the MACs.

Placement is the answer of `hb_mapper checker` for the simplified ONNX with random weights, as run by
`edge models --check-all`. The CPU nodes of the tail turn the result into scores; a CPU node inside splits the
network. "Moved" nodes are those that the model's recipe puts on the BPU. The checker does not see the recipe;
the table of compiles shows where they run. Seconds cover export, simplification and check, and depend on the
load of the machine. Models that differ only in their weights are one network, checked once: the seconds of the
others do not include a check.
"""

SPEED = """
## Compiled

Static figures are the compiler's own for one frame; they do not depend on the weights. Time and peak memory
are of `hb_mapper makertbin` alone, on the machine that compiled; the time depends on its load. "Bit for bit" says
whether the simulated program gave the same integers as the quantized model.
"""

MADE = """
## What was compiled

"ONNX" and "recipe" are the first digits of the sha256 of the compiled file and of the recipe's content.
"Network" says whether it is the network of the check; this is known only for the same weights. "{unknown}" means
that the edge that compiled did not record it.
"""
UNKNOWN = "unknown"


@frozen
class Compared:
    """Measured compared with published figures, in percent; None if nothing was published."""

    parameters: float | None  #: difference in percent.
    macs: float | None  #: difference in percent.
    why: str  #: the reason of a difference beyond the tolerance; empty if there is none.
    explained: bool  #: whether every difference is within the tolerance or has a reason confirmed by a count.


def compare(counted: Counted, published: Published | None) -> Compared:
    """Compare a count with the published figures of the same model."""
    parameters = _percent(counted.parameters / 1e6, published.params_m if published else None)
    macs = _percent(counted.macs / 1e9, published.gflops if published else None)
    reasons = []
    explained = True
    if parameters is not None and abs(parameters) > TOLERANCE:
        reasons.append("parameters: no reason known")
        explained = False
    if macs is not None and published is not None and published.gflops and abs(macs) > TOLERANCE:
        reason, good = _why(counted, published.gflops)
        reasons.append(reason)
        explained = explained and good
    return Compared(parameters, macs, "; ".join(reasons), explained)


def _why(counted: Counted, gflops: float) -> tuple[str, bool]:
    """Return the reason of a difference, and whether a count confirms it."""
    if counted.macs_published_at is not None:
        there = counted.macs_published_at / 1e9
        off = _percent(there, gflops) or 0.0
        side = counted.published_at
        said = f"counted at {side}x{side} it is {there:.3f} G ({off:+.2f} %)"
        if abs(off) <= TOLERANCE:
            return f"the published count is of a {side}x{side} input: {said}", True
        return f"not the input size: {said}", False
    candidates = {
        "additions and multiplications counted separately": 2 * counted.macs,
        "attention's products left out": counted.macs - counted.attention,
        "all other operations counted too": counted.macs + counted.other,
    }
    for reason, operations in candidates.items():
        off = _percent(operations / 1e9, gflops) or 0.0
        if abs(off) <= TOLERANCE:
            return f"the published count fits {reason}: {operations / 1e9:.3f} G ({off:+.2f} %)", True
    return "no known convention gives the published count", False


def _percent(measured: float, published: float | None) -> float | None:
    return None if not published else 100 * (measured - published) / published


def page(specs: Sequence[ModelSpec], records: Records, *, command: str) -> str:
    """Return ``docs/reference/models.md``; models that have records but no spec come last, by name."""
    known = {spec.name: spec for spec in specs}
    models: Models = {**known, **dict.fromkeys(sorted(set(records) - set(known)))}
    found = {name: records.get(name, Record()) for name in models}
    parts = [
        HEAD.format(command=command, none=NONE),
        SIZE,
        *_size(models, found),
        SPEED,
        *_speed(found),
        MADE.format(unknown=UNKNOWN),
        *_made(found),
    ]
    parts += _versions(found)
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _size(models: Models, found: Records) -> list[str]:
    head = (
        "model", "input", "export error", "parameters M", "published M", "MACs G", "published G", "beside %",
        "BPU nodes", "CPU tail", "moved", "CPU inside", "check s", "check peak GB",
    )  # fmt: skip
    rows, notes = [], []
    for name, spec in models.items():
        counted, checked, published = (found[name].counted, found[name].checked, spec.published if spec else None)
        crop = spec.preprocess.crop if spec else (counted.height, counted.width) if counted else None
        error = _export_error(found[name])
        row = [name, f"{crop[0]}x{crop[1]}" if crop else NONE, NONE if error is None else f"{error:.1g}"]
        params, gflops = (published.params_m, published.gflops) if published else (None, None)
        if counted:
            compared = compare(counted, published)
            row += [f"{counted.parameters / MB:.3f}", _against(params, compared.parameters)]
            row += [f"{counted.macs / GB:.3f}", _against(gflops, compared.macs)]
            row += [f"{100 * counted.other / counted.macs:.1f}"]
            if compared.why:
                notes.append(f"- {name}: {compared.why}.")
        else:
            row += [NONE, _against(params, None), NONE, _against(gflops, None), NONE]
        if checked and not checked.failed:
            inside = str(len(checked.inside))
            row += [str(checked.bpu), str(len(checked.tail)), str(len(checked.moved))]
            row += [f"**{inside}**" if checked.inside else inside]
            row += [f"{checked.seconds:.0f}", _ratio(checked.peak_memory, GB)]
            if twin := _twin(found, name):
                notes.append(f"- {name}: the same network as {twin}, checked once.")
            if checked.inside:
                notes.append(f"- {name}: on the CPU inside the network: {', '.join(checked.inside)}.")
        else:
            row += [NONE] * 6
            if checked:
                notes.append(f"- {name}: the check failed: {checked.failed}")
        rows.append(row)
    title = f"Differences of more than {TOLERANCE:g} %, models of the same network, and failures:"
    return [_table(head, rows), *([title, "\n".join(notes)] if notes else [])]


def _export_error(record: Record) -> float | None:
    parts = (record.counted, record.checked, record.compiled)
    return next((part.max_error for part in parts if part and part.max_error is not None), None)


def _speed(found: Records) -> list[str]:
    head = (
        "model", "level", "recipe", "latency us", "FPS", "DDR MB", ".bin MB", "compile s", "peak GB",
        "BPU / CPU nodes", "CPU inside", "bit for bit", "weights",
    )  # fmt: skip
    rows = []
    for name, record in found.items():
        twin = _twin(found, name)
        made = record.compiled or found.get(twin, Record()).compiled
        if made is None:
            rows.append([name, *[NONE] * (len(head) - 1)])
            continue
        rows.append(
            [
                name,
                made.level,
                made.recipe,
                NONE if made.latency_us is None else f"{made.latency_us:.1f}",
                NONE if made.fps is None else f"{made.fps:.2f}",
                _ratio(made.ddr_bytes, MB),
                _ratio(made.bin_bytes, MB),
                f"{made.seconds:.0f}",
                _ratio(made.peak_memory, GB),
                f"{made.bpu} / {made.cpu}",
                f"**{len(made.inside)}**" if made.inside else "0",
                NONE if made.verified is None else "yes" if made.verified else "**no**",
                made.weights if record.compiled else f"as {twin}",
            ]
        )
    return [_table(head, rows)]


def _made(found: Records) -> list[str]:
    head = ("model", "ONNX", "recipe", "network", "calibration images", "command", "machine")
    rows, silent = [], []
    for name, record in found.items():
        if (made := record.compiled) is None:
            continue
        if not (made.onnx or made.network):
            silent.append(name)
            continue
        same = {True: "as checked", False: "**another than checked**", None: NONE}[record.same_network]
        rows.append(
            [
                name,
                made.onnx[:12] or UNKNOWN,
                made.recipe_sha256[:12] or UNKNOWN,
                same if made.network else UNKNOWN,
                UNKNOWN if made.images is None else f"{made.images} of {made.calibration}",
                f"`{made.command}`" if made.command else NONE,
                made.machine or UNKNOWN,
            ]
        )
    parts = [_table(head, rows, words=len(head))] if rows else []
    if silent:
        parts.append(f"\nCompiled by an earlier edge, which did not record this: {', '.join(silent)}.")
    return parts


def _twin(found: Records, name: str) -> str:
    """Return the model whose check also holds for this one, if it is still the same network; else empty."""
    checked = found[name].checked
    other = found.get(checked.same_as, Record()).checked if checked else None
    return checked.same_as if checked and other and other.network == checked.network else ""


def _versions(found: Records) -> list[str]:
    seen: dict[str, set[str]] = {}
    for record in found.values():
        for part in (record.counted, record.checked, record.compiled):
            for name, version in (part.versions if part else {}).items():
                seen.setdefault(name, set()).add(version)
    lines = [f"- {name} {', '.join(sorted(seen[name]))}" for name in sorted(seen)]
    return ["\n## Versions\n", "\n".join(lines)] if lines else []


def _against(published: float | None, percent: float | None) -> str:
    if published is None:
        return NONE
    return f"{published:g}" + ("" if percent is None else f" ({percent:+.2f} %)")


def _ratio(value: float | None, unit: float) -> str:
    return NONE if value is None else f"{value / unit:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    marks = [*["---"] * words, *["---:"] * (len(head) - words)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *rows))
