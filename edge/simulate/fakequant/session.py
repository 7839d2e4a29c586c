"""Run a calibrated model; each run sets the bits of every quantizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from attrs import evolve
from numpy.typing import NDArray

from edge.errors import ModelFileError
from edge.graph.files import load_onnx, refusals, session
from edge.simulate.fakequant.quantizer import AS_BUILT, FLOAT, INT8, INT16, Quantizer
from edge.simulate.fakequant.translate import ON8, ON16, STEPS, Translated, translate

Tensor = NDArray[np.float32]
Bits = NDArray[np.uint8]
"""One entry per quantizer: FLOAT, INT8, INT16 or AS_BUILT."""


class FakeQuant:
    """The compiler's ``*_calibrated_model.onnx`` in stock onnxruntime; may be called from several threads.

    Raises:
        ModelFileError: it can't be read, or holds something that no rule covers.
    """

    def __init__(
        self, model: Path, inner: Iterable[str] = (), *, outputs: Sequence[str] = (), threads: int = 1
    ) -> None:
        graph: Translated = translate(load_onnx(model), inner)
        # The compiler may change the order of the outputs; where it renames them there is one.
        self.graph = evolve(graph, outputs=tuple(outputs)) if sorted(outputs) == sorted(graph.outputs) else graph
        _, channels, height, width = self.graph.shape
        if channels != 3:
            raise ModelFileError(f"{model.name} takes {self.graph.shape}", expected="an image, 1x3xHxW")
        self.size = (height, width)  # of the image
        with refusals(f"onnxruntime can't load the translated {model.name}"):
            self._session = session(
                self.graph.model.SerializeToString(),
                threads=threads,
                # Fusing into integer operators would change the rounding.
                config={"session.disable_quant_qdq": "1"},
            )
        self._feeds = {entry.name for entry in self._session.get_inputs()}
        self._partial = onnxruntime.RunOptions()
        self._partial.only_execute_path_to_fetches = True

    @property
    def quantizers(self) -> tuple[Quantizer, ...]:
        """Of the model, in graph order."""
        return self.graph.quantizers

    def bits(self, value: int = AS_BUILT, at: Iterable[int] | None = None, *, rest: int = FLOAT) -> Bits:
        """Return a setting for :meth:`run`: ``value`` for the quantizers ``at`` (None: all), else ``rest``."""
        setting = np.full(len(self.quantizers), rest, np.uint8)
        setting[slice(None) if at is None else list(at)] = value
        return setting

    def run(
        self,
        yuv444: NDArray[np.uint8],
        bits: Bits,
        outputs: Sequence[str] | None = None,
        thresholds: Mapping[int, Tensor] | None = None,
    ) -> list[Tensor]:
        """Return the outputs for one image.

        Args:
            yuv444: uint8, (H, W, 3), from :func:`edge.images.preprocess.nv12_to_yuv444`.
            bits: one entry per quantizer. A weight has no 16-bit form: INT16 rounds it to 8.
            outputs: names of the model's outputs or of inner tensors; the model's own if None.
            thresholds: quantizer -> float32 thresholds in place of the calibrated ones.

        Raises:
            ValueError: an image of another size, or a setting that names no quantizer.
        """
        if yuv444.shape != (*self.size, 3) or yuv444.dtype != np.uint8:
            raise ValueError(f"an image of {yuv444.dtype} {yuv444.shape}, not uint8 {(*self.size, 3)}")
        data = yuv444.transpose(2, 0, 1)[None].astype(np.float32) - np.float32(128)
        feeds = {self.graph.image: data, **self._switches(bits, thresholds or {})}
        wanted = list(outputs) if outputs is not None else list(self.graph.outputs)
        return list(self._session.run(wanted, feeds, self._partial))

    def scores(self, yuv444: NDArray[np.uint8], bits: Bits, thresholds: Mapping[int, Tensor] | None = None) -> Tensor:
        """Return the class scores, float32 (classes,), of one image; see :meth:`run`."""
        result: Tensor = self.run(yuv444, bits, None, thresholds)[0].reshape(-1)
        return result

    def _switches(self, bits: Bits, thresholds: Mapping[int, Tensor]) -> dict[str, NDArray[np.generic]]:
        if bits.shape != (len(self.quantizers),) or not np.isin(bits, (FLOAT, INT8, INT16, AS_BUILT)).all():
            raise ValueError(f"a setting of shape {bits.shape} for {len(self.quantizers)} quantizers")
        real = np.array(
            [q.bits if value == AS_BUILT else value for q, value in zip(self.quantizers, bits, strict=True)], np.uint8
        )
        steps = [
            q.steps(int(value) or INT8, thresholds.get(i))
            for i, (q, value) in enumerate(zip(self.quantizers, real, strict=True))
            if not q.weight
        ]
        weights = np.array([q.weight for q in self.quantizers], bool)
        feeds: dict[str, NDArray[np.generic]] = {
            ON8: (real == INT8) | (weights & (real == INT16)),
            ON16: real == INT16,
            STEPS: np.concatenate(steps) if steps else np.zeros(0, np.float32),
        }
        return {name: value for name, value in feeds.items() if name in self._feeds}
