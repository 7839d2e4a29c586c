"""Boxes from the outputs of a 640x640 detector with 80 classes (8400 candidates), on one core.

    python benchmarks/decode.py

edge compares logits with the threshold's logit and decodes what passes; the alternative decodes everything in numpy,
as the usual scripts do, and then compares. Both end with the same boxes and the same OpenCV NMS. The outputs are
noise with some objects in it, each seen by several cells.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np

from edge.detect import decode
from edge.specs.detector import Detector, Scale

SIZE = (640, 640)
CLASSES = 80
SCORE, IOU = 0.25, 0.65


def detector(family: str) -> Detector:
    """Return a detector of three scales."""
    scales = tuple(
        Scale(s, f"boxes_{s}", f"scores_{s}", f"objectness_{s}" if family == "yolox" else None) for s in (8, 16, 32)
    )
    return Detector(family, CLASSES, scales)  # type: ignore[arg-type]


def outputs(found: Detector, objects: int) -> dict[str, np.ndarray]:
    """Return noise, in it objects that nine cells of a scale see."""
    rng = np.random.default_rng(0)
    maps = {}
    for scale in found.scales:
        side = SIZE[0] // scale.stride
        for name, channels in found.channels(scale).items():
            noise = rng.normal(0, 1, (1, channels, side, side)).astype(np.float32)
            maps[name] = noise - (0 if name.startswith("boxes") else 7)
        for _ in range(objects):
            y, x = rng.integers(1, side - 1, 2)
            maps[scale.scores][0, rng.integers(CLASSES), y - 1 : y + 2, x - 1 : x + 2] = 2
            if scale.objectness is not None:
                maps[scale.objectness][0, 0, y - 1 : y + 2, x - 1 : x + 2] = 2
    return maps


def everything(maps: dict[str, np.ndarray], found: Detector) -> np.ndarray:
    """Decode all candidates, then compare."""
    rows = []
    for scale in found.scales:
        boxes, scores = (maps[name][0].reshape(maps[name].shape[1], -1).T for name in (scale.boxes, scale.scores))
        side = SIZE[0] // scale.stride
        y, x = (index.reshape(-1, 1).astype(np.float32) for index in np.indices((side, side)))
        grid = np.concatenate((x, y), axis=1)
        probabilities = 1 / (1 + np.exp(-scores))
        if found.family == "yolox":
            probabilities = probabilities / (1 + np.exp(-maps[scale.objectness].reshape(-1, 1)))
            middle, half = (grid + boxes[:, :2]) * scale.stride, np.exp(boxes[:, 2:]) * scale.stride / 2
            corners = np.concatenate((middle - half, middle + half), axis=1)
        else:
            bins = boxes.reshape(-1, 4, found.reg_max)
            bins = np.exp(bins - bins.max(axis=2, keepdims=True))
            sides = (bins / bins.sum(axis=2, keepdims=True)) @ np.arange(found.reg_max, dtype=np.float32)
            corners = np.concatenate((grid + 0.5 - sides[:, :2], grid + 0.5 + sides[:, 2:]), axis=1) * scale.stride
        best = probabilities.argmax(axis=1)
        rows.append(np.column_stack((corners, probabilities.max(axis=1), best)))
    table = np.concatenate(rows)
    table = table[table[:, 4] >= SCORE]
    moved = table[:, :4] + table[:, 5:] * 10_000
    moved[:, 2:] -= moved[:, :2]
    kept = np.asarray(cv2.dnn.NMSBoxes(moved.tolist(), table[:, 4].tolist(), 0.0, IOU), int).reshape(-1)
    return table[kept]


def milliseconds(work: Callable[[], object], runs: int) -> float:
    """Return the median time of a run."""
    for _ in range(5):
        work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def main() -> None:
    """Time both sides."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=7, help="per scale")
    parser.add_argument("--runs", type=int, default=200)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    slow = 0.0
    for family in ("dfl", "yolox"):
        found = detector(family)
        maps = outputs(found, args.objects)
        names, arrays = list(maps), list(maps.values())
        boxes = decode(arrays, names, found, size=SIZE, score=SCORE, iou=IOU)
        plain = everything(maps, found)
        if len(boxes) != len(plain) or not np.allclose(boxes.scores, plain[:, 4], atol=1e-5):
            sys.exit(f"{family}: the two sides differ: {len(boxes)} and {len(plain)} boxes")
        ours = milliseconds(lambda: decode(arrays, names, found, size=SIZE, score=SCORE, iou=IOU), args.runs)  # noqa: B023
        theirs = milliseconds(lambda: everything(maps, found), args.runs)  # noqa: B023
        slow = max(slow, ours)
        print(
            f"{family}: {len(boxes)} boxes; edge {ours:.2f} ms, decode everything {theirs:.2f} ms: {theirs / ours:.1f}x"
        )
    sys.exit(slow > 2.0)


if __name__ == "__main__":
    main()
