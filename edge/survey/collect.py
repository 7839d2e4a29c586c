"""Read what real builds left behind: the best compile of each model in a folder of builds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cattrs

from edge.specs import ModelSpec
from edge.survey.check import split
from edge.survey.record import LEVELS, RECORDS, Compiled, Record, load_records
from edge.toolchain.compiler import CompileResult
from edge.workspace import MANIFEST, RECORD, STAGES


def collect(build_dir: Path, specs: Iterable[ModelSpec]) -> dict[str, Record]:
    """Return what a folder of builds holds of each model; models of which it holds nothing are left out.

    Counts and checks are those that ``edge models`` kept there; a compile is the one of the highest level,
    the newest of several, whether the build went on to its end or not. Compiles at another input size than
    the model's are left out.

    Raises:
        InputError: the kept records can't be read.
    """
    kept = load_records(build_dir / RECORDS)
    found = {}
    for spec in specs:
        compiled = _compiled(build_dir / spec.name, spec.preprocess.crop)
        record = kept.get(spec.name, Record()).update(Record(compiled=compiled))
        if record != Record():
            found[spec.name] = record
    return found


def _compiled(folder: Path, crop: tuple[int, int]) -> Compiled | None:
    made = sorted(_compiles(folder, crop), key=lambda item: (LEVELS.index(item[1].level), item[0]))
    return made[-1][1] if made else None


def _compiles(folder: Path, crop: tuple[int, int]) -> Iterator[tuple[float, Compiled]]:
    manifest = _json(folder / MANIFEST)
    size = f"_{crop[1]}x{crop[0]}_nv12."  # the end of every program's name
    for path in (folder / STAGES).glob(f"compile-*/{RECORD}"):
        data = _json(path)
        try:
            if size in data["result"]["bin"]:
                yield path.stat().st_mtime, _read(data, manifest)
        except (OSError, KeyError, TypeError, StopIteration, ValueError, cattrs.BaseValidationError):
            continue  # of an earlier edge, which recorded less


def _read(data: Mapping[str, Any], manifest: Mapping[str, Any]) -> Compiled:
    result = cattrs.structure(data["result"], CompileResult)
    inputs = data["inputs"]
    if inputs["level"] not in LEVELS:
        raise ValueError(inputs["level"])
    return Compiled(
        weights=inputs["weights"],
        level=inputs["level"],
        recipe=inputs["recipe"],
        latency_us=result.static.latency_us if result.static else None,
        fps=result.static.fps if result.static else None,
        ddr_bytes=result.static.ddr_bytes if result.static else None,
        bin_bytes=next(file["bytes"] for file in data["files"] if file["path"] == result.bin),
        seconds=result.seconds,
        peak_memory=result.peak_memory,
        bpu=result.bpu,
        cpu=result.cpu,
        inside=tuple(row.name for row in split(result.nodes)[1]),
        verified=_verified(manifest, data["key"]),
        versions=result.versions,
    )


def _verified(manifest: Mapping[str, Any], key: str) -> bool | None:
    """Return whether the build that was published proved this very compile."""
    keys = [stage.get("key") for stage in manifest.get("stages", ()) if stage.get("name") == "compile"]
    proof = manifest.get("verify") or {}
    return bool(proof.get("bit_exact")) if key in keys and not proof.get("why_not") else None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
