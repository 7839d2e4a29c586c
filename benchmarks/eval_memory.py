"""Peak memory of ``edge eval`` on 50,000 and on 500 images: is it the same?

    python benchmarks/eval_memory.py [--many 50000] [--few 500] [--classes 1000]

A tiny network with many classes, built with onnxruntime, is measured on tiny rendered images in class folders, so that
the parts that grow with n show: names, labels, hashes and answers. The figure is the largest resident memory of the
process tree, sampled every 20 ms, or the kernel's own peak of the parent.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

SIZE = 32
EDGE = [sys.executable, "-m", "edge"]


def save_net(path: Path, classes: int) -> Path:
    """Save a network of a pooling layer and a linear one."""
    weight = np.random.default_rng(0).normal(0, 1, (3, classes)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def save_images(folder: Path, n: int, classes: int) -> Path:
    """Save n images, no two alike, in class folders."""
    ramp = np.repeat(np.arange(0, 256, 256 // SIZE, dtype=np.uint8), 3 * SIZE).reshape(SIZE, SIZE, 3)
    for index in range(n):
        path = folder / str(index % classes) / f"ILSVRC2012_val_{index:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rgb = ramp.copy()
        rgb[: SIZE // 2] = (index % 251, index // 251 % 251, index // 63001)
        cv2.imwrite(str(path), rgb)
    return folder


def peak(command: list[str]) -> tuple[float, float]:
    """Run a command; return the peak memory of its process tree in MB, and its seconds."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen, own = 0, 0
    top = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            tree = [top, *top.children(recursive=True)]
            seen = max(seen, sum(one.memory_info().rss for one in tree))
            status = Path(f"/proc/{process.pid}/status").read_text()
            own = max(own, int(status.split("VmHWM:")[1].split()[0]) * 1024)
        except (psutil.NoSuchProcess, OSError, IndexError):
            continue
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {process.returncode}")
    return max(seen, own) / 1e6, time.monotonic() - started


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many", type=int, default=50_000)
    parser.add_argument("--few", type=int, default=500)
    parser.add_argument("--classes", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as name:
        scratch = Path(name)
        net = save_net(scratch / "tiny.onnx", options.classes)
        few = save_images(scratch / "few", options.few, options.classes)
        many = save_images(scratch / "many", options.many, options.classes)
        build = [*EDGE, "build", str(net), "--mean", "127.5", "--std", "127.5", "--resize", str(SIZE)]
        build += ["--compiler", "onnxruntime", "--calib", str(few), "--calib-count", "20", "--images", str(few)]
        build += ["--count", "20", "--build-dir", str(scratch / "build")]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        figures = {}
        for folder, n in ((few, options.few), (many, options.many)):
            command = [*EDGE, "eval", str(scratch / "build" / "tiny"), "--images", str(folder), "--count", "0"]
            for run in ("all to compute", "nothing to compute"):
                figures[n, run], seconds = peak(command)
                print(f"{n:6} images, {run:18}: {figures[n, run]:6.1f} MB, {seconds:6.1f} s", flush=True)
        for run in ("all to compute", "nothing to compute"):
            ratio = figures[options.many, run] / figures[options.few, run]
            print(f"{run}: {options.many} against {options.few} images: ratio {ratio:.3f} (at most 1.10)")


if __name__ == "__main__":
    main()
