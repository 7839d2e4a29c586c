"""What 16 bits cost in time: compiles without calibration, for the latency alone.

Thresholds hardly change the static latency: with ``calibration_type: skip`` int8 networks had the very figure
of their calibrated program, and one with eight int16 nodes was 2 % faster than its own. It serves to rank;
what counts is measured on the program that ships.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from attrs import evolve, frozen

from edge.errors import CompileError
from edge.graph import facts, load_onnx
from edge.mapper.render import render_text
from edge.progress import Reporter, Silent
from edge.specs import Calibration, NodePrecision, Precision
from edge.specs import Preprocess as PreprocessSpec
from edge.specs.schema import Compiler, Level
from edge.toolchain.compiler import makertbin
from edge.toolchain.found import Toolchain
from edge.tune.journal import Entry, Journal

LEVEL: Level = "O1"  # compiles in seconds; O0 does not fuse and says nothing of what ships
_WORKING_DIR = "model_output"
_PREFIX = "latency"


@frozen(eq=False)
class Costs:
    """Measures the latency of a network with some nodes at 16 bits.

    Attributes:
        toolchain: the compiler.
        onnx: the BPU-ready ONNX.
        sha256: of it.
        calibration: a calibration folder; its files are not read, but the compiler wants it to be there.
        preprocess: of the network.
        compiler: its settings; the level is replaced by :data:`LEVEL`.
        journal: of finished work.
        folder: for working files.
        optimization: the mapper's items that every program of the search has.
    """

    toolchain: Toolchain
    onnx: Path
    sha256: str
    calibration: Path
    preprocess: PreprocessSpec
    compiler: Compiler
    journal: Journal
    folder: Path
    optimization: tuple[str, ...] = ()

    def measure(
        self,
        name: str,
        nodes: Mapping[str, NodePrecision],
        limit: float,
        reporter: Reporter | None = None,
    ) -> Entry:
        """Return the entry of a compile for the latency alone; ``latency_us`` among its values.

        Args:
            name: for the user.
            nodes: the settings.
            limit: seconds that it may take.
            reporter: told of its progress.
        """
        text = self._yaml(nodes)
        inputs = {
            "onnx": self.sha256,
            "yaml": text,
            "toolchain": self.toolchain.identity,
        }

        def work() -> dict[str, float]:
            with tempfile.TemporaryDirectory(prefix="latency-", dir=self.folder) as out:
                return {"latency_us": self._compile(text, Path(out), limit, reporter or Silent())}

        return self.journal.once("latency", name, inputs, work, limit=limit)

    def _yaml(self, nodes: Mapping[str, NodePrecision]) -> str:
        compiler = evolve(self.compiler, optimize_level=LEVEL)
        text = render_text(
            preprocess=self.preprocess,
            precision=Precision(
                "latency",
                calibration=Calibration(optimization=self.optimization),
                nodes=dict(sorted(nodes.items())),
                compiler=compiler,
            ),
            graph=facts(load_onnx(self.onnx), origin=str(self.onnx)),
            prefix=_PREFIX,
            onnx_model=f"./{self.onnx.name}",
            cal_data_dir=f"./{self.calibration.name}",
            working_dir=f"./{_WORKING_DIR}",
        )
        return re.sub(r"calibration_type: '\w+'", "calibration_type: 'skip'", text)

    def _compile(self, text: str, out: Path, limit: float, reporter: Reporter) -> float:
        yaml = out / f"{_PREFIX}.yaml"
        yaml.write_text(text, encoding="utf-8")
        made = makertbin(
            self.toolchain,
            yaml=yaml,
            files={self.onnx.name: self.onnx, self.calibration.name: self.calibration},
            out=out,
            prefix=_PREFIX,
            working_dir=_WORKING_DIR,
            key=hashlib.sha256(f"{self.sha256} {text}".encode()).hexdigest(),
            timeout=limit,
            reporter=reporter,
        )
        if made.static is None:
            raise CompileError("hbdk-cc", "the compiler gave no latency")
        return made.static.latency_us
