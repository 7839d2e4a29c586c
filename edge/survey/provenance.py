"""What a program was compiled from, traced through the records of its build's stages by their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cattrs
from attrs import frozen

from edge.export import ExportResult
from edge.specs import ModelSpec, Precision
from edge.workspace import RECORD, STAGES

# Stages that hand on an ONNX of theirs; each record names the ONNX that it was made from.
_CHANGES = ("simplify", "rewrite", "equalize", "round")
# Of a recipe, what changes nothing in the program; the level is told apart.
_WORDS = ("name", "note", "evidence")

Data = Mapping[str, Any]


@frozen
class Origin:
    """What one compile was made from.

    Attributes:
        spec: of the model, as its build knew it.
        precision: the recipe with its level.
        export: the float ONNX and its weights.
        onnx: sha256 of the ONNX that was compiled.
        simplified: sha256 of the simplified ONNX: the same, unless the recipe has it rewritten.
        pictures: calibration pictures that were written.
        asked: calibration pictures that were asked for.
        calibration: what they were taken from.
        calibration_sha256: of the set.
        images: fingerprint of the pictures before they were chosen and cropped.
        seed: of the choice.
        toolchain: identity of the compiler.
    """

    spec: ModelSpec
    precision: Precision
    export: ExportResult
    onnx: str
    simplified: str
    pictures: int
    asked: int
    calibration: str
    calibration_sha256: str
    images: str
    seed: int
    toolchain: str


def recipe_sha256(precision: Precision) -> str:
    """Return the hash of what a recipe does: its name, its notes and its level left out."""
    data = {key: value for key, value in cattrs.unstructure(precision).items() if key not in _WORDS}
    del data["compiler"]["optimize_level"]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


class Stages:
    """The stage records of one build folder.

    Args:
        folder: such as ``build/ConvNeXt_atto``; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._records: dict[str, list[Data]] = {}
        for path in sorted((folder / STAGES).glob(f"*/{RECORD}")):
            data = read_json(path)
            if isinstance(data.get("stage"), str) and isinstance(data.get("inputs"), dict):
                self._records.setdefault(data["stage"], []).append({**data, "mtime": path.stat().st_mtime})

    def compiles(self) -> Iterator[Data]:
        """Yield the record of each compile."""
        yield from self._records.get("compile", ())

    def origins(self, compiled: Data) -> list[Origin]:
        """Return what a compile was made from; none where a stage before it is gone or an earlier edge's.

        Several stand for the same bytes: files of one content that came in different ways.
        """
        try:
            return list(self._origins(compiled["inputs"]))
        except (KeyError, TypeError, ValueError, cattrs.BaseValidationError):
            return []

    def verified(self, program: str) -> bool | None:
        """Return whether a program's integers were seen to be the quantized model's; None if nobody looked.

        Args:
            program: sha256 of the ``.bin``.
        """
        for data in self._records.get("verify", ()):
            result = data.get("result") or {}
            if data["inputs"].get("bin") == program and not result.get("why_not"):
                return bool(result.get("bit_exact"))
        return None

    def _origins(self, inputs: Data) -> Iterator[Origin]:
        renders = [
            data for data in self._made("render", inputs["yaml"]) if data["inputs"]["onnx"] == inputs["onnx"]
        ]
        pictures = next(
            (
                data
                for data in self._records.get("calibrate", ())
                if data["result"]["sha256"] == inputs["calibration"]
            ),
            None,
        )
        if pictures is None:
            return
        for simplify, simplified in self._simplified(inputs["onnx"]):
            for export in self._made("export", simplify["inputs"]["onnx"]):
                for render in renders:
                    yield Origin(
                        spec=cattrs.structure(render["inputs"]["spec"], ModelSpec),
                        precision=cattrs.structure(render["inputs"]["precision"], Precision),
                        export=cattrs.structure(export["result"], ExportResult),
                        onnx=inputs["onnx"],
                        simplified=simplified,
                        pictures=pictures["result"]["n"],
                        asked=pictures["result"]["asked"],
                        calibration=pictures["result"]["source"],
                        calibration_sha256=inputs["calibration"],
                        images=pictures["inputs"]["images"],
                        seed=pictures["inputs"]["seed"],
                        toolchain=inputs["toolchain"],
                    )

    def _simplified(self, onnx: str) -> Iterator[tuple[Data, str]]:
        """Yield the simplify stages that an ONNX goes back to, with the hash of what they made."""
        for stage in _CHANGES:
            for data in self._made(stage, onnx):
                if stage == "simplify":
                    yield data, onnx
                elif data["inputs"]["onnx"] != onnx:  # a change that left the file as it was
                    yield from self._simplified(data["inputs"]["onnx"])

    def _made(self, stage: str, sha256: str) -> Iterator[Data]:
        for data in self._records.get(stage, ()):
            if any(file["sha256"] == sha256 for file in data["files"]):
                yield data


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
