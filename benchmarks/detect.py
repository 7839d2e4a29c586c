r"""A detector cut behind its head against the same file compiled whole, as the vendor's tool takes it.

    python benchmarks/detect.py yolox_nano.onnx --images coco_val/ --calib coco_train/ \
        --recipe int8 --recipe int8_split_thresholds

The whole file is the task ``raw``, with the same preprocessing and calibration. Latency is the compiler's own static
figure; what runs on the CPU is not in it. AP is of float and of the program on the same images. Fails if the cut
detector in plain int8 has a node on the CPU, or is not faster than the whole file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

import edge
from edge.api import BuildResult
from edge.cli.display import Display


def build(arguments: argparse.Namespace, folder: str, task: str, recipe: str, **more: Any) -> BuildResult:
    """Build the file in one way."""
    with Display() as display:
        return edge.build(
            arguments.model,
            task=task,
            images=arguments.images if task == "detect" else arguments.calib,  # raw outputs have no labels
            calib=arguments.calib,
            count=0,
            level=arguments.level,
            precision=recipe,
            build_dir=f"{folder}/{task}_{recipe}",
            listener=display,
            **more,
        )


def preprocessing(detector: BuildResult) -> dict[str, Any]:
    """Return the options with which the whole file sees images as the detector does."""
    seen = detector.manifest["preprocess"]
    way = {"letterbox": seen["letterbox"]} if seen.get("letterbox") else {"resize": "stretch"}
    shown = {key: ",".join(map(str, seen[key])) for key in ("mean", "std")}
    return {**way, **shown, "color": seen["color"], "interpolation": seen["interpolation"]}


def row(name: str, made: BuildResult, whole: BuildResult) -> str:
    """Return a line of the table."""
    latency, base = (float(found.manifest["static"]["latency_us"]) for found in (made, whole))
    boxes = made.manifest["accuracy"].get("boxes")
    ap = [one["ap"] and one["ap"]["ap"] for one in (boxes.values() if boxes else ())]
    shown = f"{ap[0]:.1f} → {ap[-1]:.1f}" if ap and ap[0] is not None else ""
    own = f"{list(boxes.values())[-1]['self_ap'] or 0:.1f}" if boxes else ""
    cpu = made.manifest["placement"]["cpu"]
    return f"{name:<24} {latency:>9.1f} us {latency / base:>7.3f}x {cpu:>6} {shown:>14} {own:>12}"


def main() -> int:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="ONNX of a detector")
    parser.add_argument("--images", required=True, help="labelled images, or a folder of images")
    parser.add_argument("--calib", required=True, help="images to calibrate on")
    parser.add_argument("--level", default="O3")
    parser.add_argument("--recipe", action="append", default=[], help="a precision recipe of the cut detector")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = {name: build(arguments, folder, "detect", name) for name in arguments.recipe or ["int8"]}
        first = next(iter(made.values()))
        whole = build(arguments, folder, "raw", "int8", **preprocessing(first))
        print(f"{'':<24} {'latency':>12} {'':>8} {'on CPU':>6} {'AP':>14} {'AP float boxes':>12}")
        print(row("whole file, int8", whole, whole))
        for name, one in made.items():
            print(row(f"cut, {name}", one, whole))
        faster = first.manifest["static"]["latency_us"] < whole.manifest["static"]["latency_us"]
        return 0 if faster and not first.manifest["placement"]["cpu"] else 1


if __name__ == "__main__":
    sys.exit(main())
