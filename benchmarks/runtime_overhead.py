"""The cost of edge.runtime on top of the vendor's own calls.

- **run**: milliseconds per frame that ``Net`` adds to the bare vendor call, median over alternating calls, with
  fakes of the board's libraries whose program does nothing. ``classify`` adds softmax, sorting and labels;
  preprocessing is not counted.
- **import**: seconds that ``import edge.runtime`` takes after numpy and OpenCV, fastest of several.
- **JPEG to NV12**: images per second compared with the vendor's Python transformers, in turns, one thread each
  (needs ``--images`` and the compiler's Python; the same chains as in ``calibration_speed.py``).

    python benchmarks/runtime_overhead.py [--images DIR]

The fakes are the suite's: it needs the test packages (``scripts/setup.sh dev``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fakes" / "board")]

from calibration_speed import Vendor, nv12_seconds  # noqa: E402 - also sets one thread, before numpy loads

MAX_OVERHEAD_MS = 0.3
MAX_IMPORT_S = 0.3
MIN_RATIO = 4.0
GATED_CHAIN = "resize nv12"  # of the RDK X5 samples
CLASSES = 1000
IMPORT = """
import time
start = time.perf_counter()
import numpy, cv2
loaded = time.perf_counter()
import edge.runtime
print(loaded - start, time.perf_counter() - loaded)
"""


def medians_ms(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time the calls in turns, so that other work of the machine affects all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 50):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if index >= 50:  # caches are warm
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def overhead(rounds: int) -> float:
    """Print one line per library; return the most that ``classify`` adds, in milliseconds."""
    import numpy as np

    from edge.files import sha256_of
    from edge.folder.metadata import FileEntry, Metadata, write_metadata
    from edge.runtime import load
    from edge.specs import Preprocess
    from tests.fake_board import fake_bin

    pre = Preprocess()
    rgb = np.random.default_rng(0).integers(0, 256, (*pre.canvas, 3)).astype(np.uint8)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.bin")
        nv12_input = {"name": "images", "type": "NV12", "shape": [1, 3, *pre.canvas]}
        scores = {"name": "scores", "type": "F32", "shape": [1, CLASSES, 1, 1]}
        path.write_bytes(fake_bin([scores], [nv12_input], constant=True))
        entry = FileEntry(path.name, path.stat().st_size, sha256_of(path))
        write_metadata(Path(folder, "metadata.json"), Metadata("net", "net", "random", pre, CLASSES, {"bin": entry}))
        for library, bare in bare_calls(str(path)).items():
            with load(folder, backend=library, labels=[f"class {i}" for i in range(CLASSES)]) as net:
                frame = net.nv12(rgb)
                # The same net without its preprocessing, so that classify costs what it adds.
                net.nv12 = lambda image: image  # type: ignore[method-assign]
                calls = {
                    "bare": lambda: bare(frame),  # noqa: B023 - called within this round
                    "run": lambda: net.run(frame),  # noqa: B023
                    "classify": lambda: net.classify(frame),  # noqa: B023
                }
                took = medians_ms(calls, rounds)
            added = {name: took[name] - took["bare"] for name in ("run", "classify")}
            worst = max(worst, added["classify"])
            print(
                f"{library:14s} bare call {took['bare']:.3f} ms; net.run adds {added['run']:.3f} ms "
                f"({took['run'] / took['bare']:.1f}x), net.classify {added['classify']:.3f} ms"
            )
    return worst


def bare_calls(path: str) -> dict[str, Callable[[object], object]]:
    """Return library -> the calls of a user's own script that run one frame and keep its scores."""
    import bpu_infer_lib
    import hbm_runtime
    from hobot_dnn import pyeasy_dnn

    runtime = hbm_runtime.HB_HBMRuntime(path)
    name = runtime.model_names[0]
    given, wanted = runtime.input_names[name][0], runtime.output_names[name][0]
    model = pyeasy_dnn.load(path)[0]
    infer = bpu_infer_lib.Infer(False)
    infer.load_model(path)

    def bpu(frame: object) -> object:
        infer.read_input(frame, 0)
        infer.forward()
        infer.get_output()
        return infer.outputs[0].data

    return {
        "hbm_runtime": lambda frame: runtime.run({name: {given: frame}})[name][wanted],
        "hobot_dnn": lambda frame: model.forward(frame)[0].buffer,
        "bpu_infer_lib": bpu,
    }


def import_seconds(python: str, rounds: int = 11) -> tuple[float, float]:
    """Return (numpy and OpenCV, edge.runtime on top), each of its least disturbed round."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pairs = []
    for _ in range(rounds + 1):
        done = subprocess.run([python, "-c", IMPORT], capture_output=True, text=True, env=env, check=True)
        pairs.append([float(word) for word in done.stdout.split()])
    first, second = zip(*pairs[1:], strict=True)  # the first round fills the disk cache
    return min(first), min(second)


def jpeg_to_nv12(folder: Path, count: int, rounds: int) -> float:
    """Print a line a chain; return the ratio against the gated one."""
    import cv2

    from edge.images import EXTENSIONS
    from edge.toolchain.find import find

    cv2.setNumThreads(1)
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS)[:count]
    if not paths:
        sys.exit(f"{folder} holds no images")
    toolchain = find("auto")
    argv = toolchain.python_argv()
    if argv is None:
        sys.exit("the compiler's Python is not known: edge toolchain install")
    with tempfile.TemporaryDirectory() as out:
        vendor = Vendor(argv, toolchain.environ(), Path(out))
        chains = [chain for chain in vendor.chains if chain.endswith("nv12")]
        times: dict[str, list[float]] = {name: [] for name in ("edge", *chains)}
        for _ in range(rounds):
            times["edge"].append(nv12_seconds(paths))
            for chain in chains:
                times[chain].append(vendor.seconds(chain, [str(path) for path in paths]))
        vendor.close()
    # The fastest round is the one least disturbed by other work of the machine.
    rate = {name: len(paths) / min(values) for name, values in times.items()}
    print(f"JPEG to NV12   edge {rate['edge']:.1f} images/s on one thread, {len(paths)} images")
    for chain in chains:
        print(f"  vendor {chain:19s} {rate[chain]:7.1f}   edge is {rate['edge'] / rate[chain]:.2f}x")
    return rate["edge"] / rate[GATED_CHAIN]


def main() -> int:
    """Print the figures; exit 1 if one misses its gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs; without it no JPEG to NV12")
    parser.add_argument("--n", type=int, default=50, help="images a round")
    parser.add_argument("--rounds", type=int, default=3, help="of the images")
    parser.add_argument("--frames", type=int, default=1000, help="of the run")
    parser.add_argument("--python", default=sys.executable, help="whose import time to measure")
    options = parser.parse_args()
    worst = overhead(options.frames)
    good = worst < MAX_OVERHEAD_MS
    print(f"run            adds at most {worst:.3f} ms a frame (gate {MAX_OVERHEAD_MS} ms)")
    base, added = import_seconds(options.python)
    good &= added < MAX_IMPORT_S
    print(
        f"import         {added:.3f} s on top of numpy and OpenCV's {base:.3f} s, "
        f"{(base + added) / base:.2f}x (gate {MAX_IMPORT_S} s)"
    )
    if options.images:
        ratio = jpeg_to_nv12(options.images, options.n, options.rounds)
        good &= ratio >= MIN_RATIO
        print(f"JPEG to NV12   ratio {ratio:.2f} (gate {MIN_RATIO}, against '{GATED_CHAIN}')")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
