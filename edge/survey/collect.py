"""Read real builds: the best compile of each model in a folder of builds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cattrs
from attrs import field, frozen

from edge.compiler.run import CompileResult
from edge.errors import counted
from edge.files import read_json
from edge.folder.workspace import RECORD, STAGES
from edge.specs import ModelSpec, Precision, available_models
from edge.specs.request import Request
from edge.specs.schema import OWN_FILES
from edge.survey.check import request_of, split
from edge.survey.record import LEVELS, RECORDS, Checked, Compiled, Record, Records, load_records

if TYPE_CHECKING:
    from edge.sources.stage import ExportResult

# Stages that write an ONNX; each record names the ONNX that it was made from.
_CHANGES = ("simplify", "rewrite", "equalize", "split", "round", "thresholds")
# Keys of a recipe that do not change the program; the level is compared separately.
_WORDS = ("name", "note", "evidence")

Data = Mapping[str, Any]


@frozen
class Origin:
    """The inputs of one compile."""

    spec: ModelSpec  #: of the model, at the time of its build.
    precision: Precision  #: the recipe with its level.
    export: ExportResult  #: the float ONNX and its weights.
    onnx: str  #: sha256 of the ONNX that was compiled.
    simplified: str  #: sha256 of the simplified ONNX: the same, unless the recipe changes the ONNX.
    written: int  #: calibration images that were written.
    asked: int  #: calibration images that were asked for.
    calibration: str  #: source of the images.
    calibration_sha256: str  #: of the set.
    images_sha256: str  #: fingerprint of the images before they were chosen and cropped.
    seed: int  #: of the choice.
    toolchain: str  #: identity of the compiler.


def recipe_sha256(precision: Precision) -> str:
    """Return the hash of a recipe without its name, notes and level."""
    data = {key: value for key, value in cattrs.unstructure(precision).items() if key not in _WORDS}
    del data["compiler"]["optimize_level"]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


class Stages:
    """The stage records of one build folder, which need not exist.

    The manifest is not enough: ``edge compile`` writes none, and it names a recipe without its content.
    """

    def __init__(self, folder: Path) -> None:
        self._records: dict[str, list[Data]] = {}
        for path in sorted((folder / STAGES).glob(f"*/{RECORD}")):
            data = _object(path)
            if isinstance(data.get("stage"), str) and isinstance(data.get("inputs"), dict):
                self._records.setdefault(data["stage"], []).append({**data, "mtime": path.stat().st_mtime})

    def compiles(self) -> Iterator[Data]:
        """Yield the record of each compile."""
        yield from self._records.get("compile", ())

    def origins(self, compiled: Data) -> list[Origin]:
        """Return the inputs of a compile; none if an earlier stage is gone or was made by an earlier edge.

        Several origins mean the same bytes, made in different ways.
        """
        try:
            return list(self._origins(compiled["inputs"]))
        except (KeyError, TypeError, ValueError, cattrs.BaseValidationError):
            return []

    def verified(self, program: str) -> bool | None:
        """Return whether verify found a ``.bin`` equal to the quantized model; None if it did not run."""
        for data in self._records.get("verify", ()):
            result = data.get("result") or {}
            if data["inputs"].get("program") == program and not result.get("why_not"):
                return bool(result.get("bit_exact"))
        return None

    def _origins(self, inputs: Data) -> Iterator[Origin]:
        from edge.sources.stage import ExportResult

        renders = [data for data in self._made("render", inputs["yaml"]) if data["inputs"]["model"] == inputs["onnx"]]
        images = next(
            (data for data in self._records.get("calibrate", ()) if data["result"]["sha256"] == inputs["calibration"]),
            None,
        )
        if images is None:
            return
        for simplify, simplified in self._simplified(inputs["onnx"]):
            for export in self._made("export", simplify["inputs"]["model"]):
                for render in renders:
                    yield Origin(
                        spec=cattrs.structure(render["inputs"]["spec"], ModelSpec),
                        precision=cattrs.structure(render["inputs"]["precision"], Precision),
                        export=cattrs.structure(export["result"], ExportResult),
                        onnx=inputs["onnx"],
                        simplified=simplified,
                        written=images["result"]["n"],
                        asked=images["result"]["asked"],
                        calibration=images["result"]["source"],
                        calibration_sha256=inputs["calibration"],
                        images_sha256=images["inputs"]["images"],
                        seed=images["inputs"]["seed"],
                        toolchain=inputs["toolchain"],
                    )

    def _simplified(self, onnx: str) -> Iterator[tuple[Data, str]]:
        """Yield the simplify stages from which an ONNX was made, with the hash of their ONNX."""
        for stage in _CHANGES:
            for data in self._made(stage, onnx):
                if stage == "simplify":
                    yield data, onnx
                elif data["inputs"]["model"] != onnx:  # a change that left the file as it was
                    yield from self._simplified(data["inputs"]["model"])

    def _made(self, stage: str, sha256: str) -> Iterator[Data]:
        for data in self._records.get(stage, ()):
            if any(file["sha256"] == sha256 for file in data["files"]):
                yield data


def _object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if it is missing or can't be read."""
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


@frozen
class Collected:
    """The measurements in a folder of builds."""

    #: name -> new measurements of a model; models without any are left out.
    records: Mapping[str, Record] = field(factory=dict)
    #: name -> why none of a model's programs counts, if it has any.
    left_out: Mapping[str, str] = field(factory=dict)


def collect(build_dir: Path, specs: Iterable[ModelSpec], known: Records | None = None) -> Collected:
    """Return the measurements of each model in a folder of builds.

    Counts and checks are those that ``edge models`` stored there. A compile counts if it matches ``request_of``, at any
    level and with any calibration images: the model's own input and recipe, its own weights or random ones of seed 0,
    and, for the same weights, the network of the model's check. If several count, the highest level wins, then the
    newest, even if its build did not finish.

    Args:
        known: earlier records of the models; a check in ``build_dir`` wins over theirs.
    """
    kept = load_records(build_dir / RECORDS)
    records, left_out = {}, {}
    for spec in specs:
        mine = kept.get(spec.name, Record())
        checked = (known or {}).get(spec.name, Record()).update(mine).checked
        compiled, why_not = _best(build_dir / spec.name, request_of(spec, timeout=1), checked)
        record = mine.update(Record(compiled=compiled))
        if record != Record():
            records[spec.name] = record
        if why_not and compiled is None:
            left_out[spec.name] = why_not
    return Collected(records, left_out)


def _best(folder: Path, request: Request, checked: Checked | None) -> tuple[Compiled | None, str]:
    """Return the compile that counts, and why another one does not."""
    stages = Stages(folder)
    made: list[tuple[int, float, Compiled]] = []
    why_not = ""
    for data in stages.compiles():
        reasons = []
        for origin in stages.origins(data):
            reasons.append(unfit(origin, request, checked))
            if reasons[-1]:
                continue
            try:
                compiled = _read(data, origin, stages)
            except (KeyError, TypeError, StopIteration, ValueError, cattrs.BaseValidationError):
                reasons[-1] = "recorded by an earlier edge"
                continue
            made.append((LEVELS.index(compiled.level), data["mtime"], compiled))
            break
        else:
            why_not = next(iter(reasons), "the records of its build are gone, or were made by an earlier edge")
    best = max(made, key=lambda item: item[:2], default=None)
    return (best[2] if best else None), why_not


def unfit(origin: Origin, request: Request, checked: Checked | None) -> str:
    """Return why a program does not match ``request_of`` of the model; empty if it does."""
    spec, export = request.spec, origin.export
    if not _own_weights(origin, request):
        return f"{export.weights.source} weights ({export.weights.tag}) are not the model's own"
    if origin.spec.preprocess != spec.preprocess:
        return "another input or preprocessing than the model's"
    if recipe_sha256(origin.precision) != recipe_sha256(request.precision):
        return f"recipe {origin.precision.name} is not the model's own {request.precision.name}, as it is now"
    if spec.classes is not None and export.classes != spec.classes:
        return f"{counted(export.classes, 'class')}, not {spec.classes}"
    if checked and checked.network and checked.weights == export.weights.source:
        network = checked.network.partition(" ")[0]
        if network != origin.simplified:
            return (
                f"another network ({origin.simplified[:12]}) than in its check ({network[:12]}); "
                f"edge models --check-all {spec.name} checks it again"
            )
    return ""


def _own_weights(origin: Origin, request: Request) -> bool:
    found, sources = origin.export.weights, request.spec.sources
    if found.source in OWN_FILES:
        mine, built = (getattr(each, found.source) for each in (sources, origin.spec.sources))
        if not (mine and built) or Path(mine).name != Path(built).name:
            return False
        return found.source == "paddle" or found.tag == Path(mine).name  # the tag of Paddle is a file in the folder
    if found.source == "random":
        return found.tag == sources.timm and found.seed == request.seed
    return found.source in ("timm", "vendor") and found.tag == getattr(sources, found.source)


def _read(data: Data, origin: Origin, stages: Stages) -> Compiled:
    result = cattrs.structure(data["result"], CompileResult)
    level = data["inputs"]["level"]
    if level not in LEVELS:
        raise ValueError(level)
    export = origin.export
    program = next(file for file in data["files"] if file["path"] == result.bin)
    return Compiled(
        weights=export.weights.source,
        level=level,
        recipe=data["inputs"]["recipe"],
        latency_us=result.static.latency_us if result.static else None,
        fps=result.static.fps if result.static else None,
        ddr_bytes=result.static.ddr_bytes if result.static else None,
        bin_bytes=program["bytes"],
        seconds=result.seconds,
        peak_memory=result.peak_memory,
        bpu=result.bpu,
        cpu=result.cpu,
        inside=tuple(row.name for row in split(result.nodes)[1]),
        verified=stages.verified(program["sha256"]),
        versions=result.versions,
        onnx=origin.onnx,
        network=f"{origin.simplified} {origin.precision.name}",
        recipe_sha256=recipe_sha256(origin.precision),
        tag=export.weights.tag,
        seed=export.weights.seed,
        max_error=export.max_error,
        images=origin.written,
        calibration=origin.calibration,
        calibration_sha256=origin.calibration_sha256,
        toolchain=origin.toolchain,
        machine=result.machine,
        command=_command(origin, level),
    )


def _command(origin: Origin, level: str) -> str:
    """Return the command that compiles the same again, for a model with a name; empty with other images."""
    from edge.images import open_images, sample
    from edge.images.calibrate import load_set
    from edge.pipeline.choices import DEMO_CALIBRATION

    name, source = origin.spec.name, origin.export.weights.source
    default = load_set(DEMO_CALIBRATION)
    images = sample(open_images(default.images, count=origin.asked, seed=default.seed), origin.asked, default.seed)
    if name not in available_models() or (images.fingerprint, default.seed) != (origin.images_sha256, origin.seed):
        return ""
    words: list[Any] = ["edge", "compile", name]
    words += [] if source in OWN_FILES else ["--weights", source]
    words += ["--level", level]
    words += [] if origin.asked == default.n else ["--calib-count", origin.asked]
    return " ".join(map(str, words))
