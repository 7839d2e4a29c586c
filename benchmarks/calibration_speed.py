"""Calibration images per second: edge's stage compared with the vendor's transformer chains.

Both read the same photographs and write the same kind of file (raw float32, 3x224x224), on the same machine, in turns.
The vendor's chains run in the compiler's own Python. They come from the vendor's samples:

- ``resize``: cv2.imread, ResizeTransformer (scikit-image), as in the RDK X5 samples' 02_preprocess.sh;
- ``mobilenet``: scikit-image, ShortSideResize 256, CenterCrop 224, as in the MobileNet and ResNet samples;
- ``mobilenet-cv2``: the same with cv2.imread; no antialiasing, no float image: the cheapest chain;
- ``pil``: PILResize 256 (bicubic, antialiased), PILCenterCrop 224: the only chain whose pixels equal ours;
- ``… nv12``: the chain continues to NV12 with the vendor's RGB2NV12Transformer, as calibration itself does.

    python benchmarks/calibration_speed.py --images DIR
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# One thread of arithmetic on both sides; set before numpy loads.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ.update(THREADS)

GATE = 4.0
GATED = "resize"

VENDOR = r"""
import json, sys, time
import cv2, numpy as np, skimage, skimage.io
from PIL import Image
from horizon_tc_ui.data.transformer import *
cv2.setNumThreads(1)
def scikit(path):
    image = skimage.img_as_float(skimage.io.imread(path)).astype(np.float32)
    return image if image.ndim == 3 else np.concatenate([image[..., None]] * 3, -1)
def pil(path):
    return np.array(Image.open(path).convert("RGB"))
CHAINS = {
    "resize": (cv2.imread, [ResizeTransformer((224, 224)), HWC2CHWTransformer(), BGR2RGBTransformer()]),
    "mobilenet": (scikit, [ShortSideResizeTransformer(256), CenterCropTransformer(224), HWC2CHWTransformer(),
                           ScaleTransformer(255)]),
    "mobilenet-cv2": (cv2.imread, [ShortSideResizeTransformer(256), CenterCropTransformer(224),
                                   HWC2CHWTransformer(), BGR2RGBTransformer()]),
    "pil": (pil, [PILResizeTransformer(256, Image.BICUBIC), PILCenterCropTransformer(224),
                  HWC2CHWTransformer()]),
}
for name in list(CHAINS):
    read, chain = CHAINS[name]
    CHAINS[name + " nv12"] = (read, [*chain, RGB2NV12Transformer()])
def run(name, paths, out):
    read, chain = CHAINS[name]
    for path in paths:
        data = [read(path)]
        for transformer in chain:
            data = transformer(data)
        (data[0] if name.endswith("nv12") else data[0].astype(np.float32)).tofile(out)
for line in sys.stdin:
    task = json.loads(line)
    if task["chain"] is None:
        answer = list(CHAINS)
    else:
        start = time.perf_counter()
        run(task["chain"], task["paths"], task["out"])
        answer = time.perf_counter() - start
    print("@" + json.dumps(answer), flush=True)
"""


class Vendor:
    """The vendor's chains in a process of the compiler's Python; one JSON line in each direction."""

    def __init__(self, argv: list[str], env: dict[str, str], out: Path) -> None:
        self._out = out
        self._process = subprocess.Popen(
            [*argv, "-c", VENDOR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env | THREADS,
        )
        self.chains: list[str] = self._ask({"chain": None})

    def seconds(self, chain: str, paths: list[str]) -> float:
        """Time one chain over the images."""
        return self._ask({"chain": chain, "paths": paths, "out": str(self._out / "vendor.bin")})

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, task: object):  # noqa: ANN202 - whatever JSON says
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        sys.exit("the compiler's Python ended; does it have horizon_tc_ui?")


def calibration_seconds(paths: list[Path], threads: int | None) -> float:
    """Time the real stage, including hashes, checks and index, on ``threads`` (None: as it ships)."""
    import edge.images.calibrate
    from edge.images import ImageItem, ImageSet
    from edge.specs import Preprocess

    images = ImageSet(tuple(ImageItem(path.name, path=path) for path in paths), "benchmark", "no labels")
    shipped = edge.images.calibrate.MAX_WORKERS
    edge.images.calibrate.MAX_WORKERS = threads or shipped
    try:
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            edge.images.calibrate.calibrate(images=images, preprocess=Preprocess(), n=len(paths), out=Path(out))
            return time.perf_counter() - start
    finally:
        edge.images.calibrate.MAX_WORKERS = shipped


def nv12_seconds(paths: list[Path]) -> float:
    """Time JPEG file -> NV12, as the board's input is made."""
    from edge.images.preprocess import decode, resize_crop, rgb_to_nv12
    from edge.specs import Preprocess

    pre = Preprocess()
    start = time.perf_counter()
    for path in paths:
        rgb_to_nv12(resize_crop(decode(path), pre))
    return time.perf_counter() - start


def main() -> int:
    """Print the table; exit 1 below the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--n", type=int, default=50, help="images a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--toolchain-python", help="the compiler's Python; found by edge by default")
    options = parser.parse_args()

    import cv2

    from edge.images import EXTENSIONS

    cv2.setNumThreads(1)
    paths = sorted(p for p in options.images.iterdir() if p.suffix.lower() in EXTENSIONS)[: options.n]
    if not paths:
        sys.exit(f"{options.images} holds no images")
    if options.toolchain_python:
        argv, env = [options.toolchain_python], dict(os.environ)
    else:
        from edge.toolchain.find import find

        toolchain = find("auto")
        argv, env = toolchain.python_argv(), toolchain.environ()
        if argv is None:
            sys.exit("the compiler's Python is not known: give --toolchain-python")

    with tempfile.TemporaryDirectory() as out:
        vendor = Vendor(argv, env, Path(out))
        theirs = {chain: lambda chain=chain: vendor.seconds(chain, [str(p) for p in paths]) for chain in vendor.chains}
        ours = {
            "edge, 1 thread": lambda: calibration_seconds(paths, 1),
            "edge, as shipped": lambda: calibration_seconds(paths, None),
            "edge nv12, 1 thread": lambda: nv12_seconds(paths),
        }
        work = theirs | ours
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(options.rounds):
            for name, measure in work.items():
                times[name].append(measure())
        vendor.close()
    # The fastest round is the one least disturbed by other work of the machine.
    rate = {name: len(paths) / min(values) for name, values in times.items()}
    print(f"{len(paths)} images, {os.cpu_count()} cores; images/s, fastest of {options.rounds} rounds")
    for name in ours:
        print(f"{name:24s} {rate[name]:8.1f}   (median {len(paths) / statistics.median(times[name]):.1f})")
    for name in theirs:
        one, shipped = ("edge nv12, 1 thread",) * 2 if name.endswith("nv12") else ("edge, 1 thread", "edge, as shipped")
        print(
            f"vendor {name:17s} {rate[name]:8.1f}   edge is {rate[one] / rate[name]:.2f}x on 1 thread"
            + ("" if one == shipped else f", {rate[shipped] / rate[name]:.2f}x as shipped")
        )
    ratio = rate["edge, as shipped"] / rate[GATED]
    print(f"ratio {ratio:.2f} (gate {GATE}, against '{GATED}', as shipped)")
    return 0 if ratio >= GATE else 1


if __name__ == "__main__":
    sys.exit(main())
