"""The portable model compared with the vendor's runtime: are the outputs bit for bit equal, and how fast is each?

    python benchmarks/portable_speed.py [--images DIR] [--count 500] [--threads 1] [BUILD...]

Without BUILD: demo ConvNeXt_atto, and a block in the manner of CSPDarkNet (split, residual, concatenation,
leaky ReLU) with random weights, both compiled here at O0; the integers do not depend on the level. A BUILD
is a build folder. Images are the demo's unless --images says others; programs without such images get
them all the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.images import ImageSet, open_images, sample
from edge.runtime import Net, load

DEMO = ["ConvNeXt_atto", "--weights", "demo"]
BLOCK = ["--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--color", "rgb", "--crop", "128"]


def csp_block(path: Path, width: int = 64, classes: int = 10) -> Path:
    """Save a stem and one cross-stage-partial block at 64x64, with random weights."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], name=f"n{len(nodes)}", **attributes))
        return nodes[-1].output[0]

    def constant(array: NDArray[np.float32]) -> str:
        constants.append(numpy_helper.from_array(array.astype(np.float32), f"c{len(constants)}"))
        return constants[-1].name

    def conv(x: str, ins: int, outs: int, kernel: int, stride: int = 1) -> str:
        weight = rng.normal(0, (2 / (ins * kernel * kernel)) ** 0.5, (outs, ins, kernel, kernel))
        pads = [kernel // 2] * 4
        y = add("Conv", x, constant(weight), constant(rng.normal(0, 0.1, outs)), pads=pads, strides=[stride] * 2)
        return add("LeakyRelu", y, alpha=0.1)

    half = width // 2
    x = conv("x", 3, width, 3, 2)
    left, right = conv(x, width, half, 1), conv(x, width, half, 1)
    for _ in range(2):
        right = add("Add", right, conv(conv(right, half, half, 1), half, half, 3))
    x = conv(add("Concat", left, right, axis=1), width, width, 1)
    x = add("Flatten", add("GlobalAveragePool", x))
    add("Gemm", x, constant(rng.normal(0, 0.3, (width, classes))), constant(np.zeros(classes)))
    nodes[-1].output[0] = "scores"
    graph = helper.make_graph(
        nodes,
        "csp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 128, 128])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, classes])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def built(scratch: Path) -> Iterator[Path]:
    """Build the two networks at O0; the build folder of each."""
    block = csp_block(scratch / "csp_block.onnx")
    edge = Path(sys.executable).with_name("edge")
    for model in (DEMO, [str(block), *BLOCK, "--resize", "128", "--calib", "demo:calibration"]):
        command = [str(edge), "build", *model, "--level", "O0", "--count", "20", "--build-dir", str(scratch)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield scratch / Path(model[0]).stem


def frames_of(net: Net, images: ImageSet) -> list[NDArray[np.uint8]]:
    """Return every image as NV12."""
    return [net.nv12(item.load()) for item in images]


def timed(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], frames: list[NDArray[np.uint8]], threads: int
) -> tuple[list[NDArray[np.float32]], float]:
    """Return every answer, and images per second with this many callers at once."""
    run(frames[0])
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        answers = list(pool.map(run, frames))
        return answers, len(frames) / (time.perf_counter() - started)


def compare(folder: Path, images: ImageSet, threads: int) -> None:
    """Print one line for a build."""
    with load(folder, "portable", threads=threads) as portable:
        frames = frames_of(portable, images)
        ours, our_rate = timed(lambda frame: portable.run(frame)[0], frames, threads)
    with load(folder, "quantized", threads=threads) as vendor:
        theirs, their_rate = timed(lambda frame: vendor.run(frame)[0], frames, threads)
    same = sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    top1 = sum(a.argmax() == b.argmax() for a, b in zip(ours, theirs, strict=True))
    n = len(frames)
    print(
        f"{folder.name}: n = {n}, {threads} thread{'s' * (threads > 1)}: same bits {same}/{n}, "
        f"same Top-1 {top1}/{n}; portable {our_rate:.1f}, vendor {their_rate:.2f} images/s: "
        f"ratio {our_rate / their_rate:.1f}"
    )


def main() -> None:
    """Compare each build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs="*", type=Path)
    parser.add_argument("--images", default="demo:test")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    images = sample(open_images(options.images), options.count)
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        for folder in options.builds or built(Path(scratch)):
            compare(folder, images, options.threads)


if __name__ == "__main__":
    main()
