"""Speed of ``edge eval``: worker processes compared with a plain loop, and an added step with a full evaluation.

    python benchmarks/eval_speed.py [--images DIR] [--count 100] [--workers 2] [BUILD]

BUILD is a build folder made with the vendor's compiler; without it demo ConvNeXt_atto is built here at O0.

1. Images per second of the step ``quantized``, including decoding and preprocessing, compared with a plain loop over
   the vendor's runtime (``HB_ONNXRuntime``) in one process of the compiler's Python, which gets ready NV12 frames.
   The loop runs twice: with the runtime's default threads (all cores), and with one. Loading is not counted. The
   three run in turns, and the best round of each counts.
2. An evaluation of all steps when all but ``nv12`` were measured before, compared with one from the beginning.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from attrs import evolve

from edge.accuracy import MeasuredOn, Step, Subject, evaluate, find_steps, judge_of, subject_of
from edge.accuracy.answers import KeptAnswers, measure
from edge.folder.built import open_built
from edge.images import ImageSet, open_images, sample
from edge.images.preprocess import resize_crop, rgb_to_nv12
from edge.measure.networks import Runner
from edge.progress import Quiet
from edge.toolchain.find import find

DEMO = ["ConvNeXt_atto", "--weights", "demo", "--level", "O0", "--count", "20"]
LOOP = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from horizon_tc_ui import HB_ONNXRuntime
from quantized import ImageInput, open_session
threads = int(sys.argv[4])
session = open_session(sys.argv[2], threads) if threads else HB_ONNXRuntime(sys.argv[2], input_batch=1)
image = ImageInput(session)
frames = np.load(sys.argv[3])
session.run(session.output_names, {image.name: image.from_nv12(frames[0].tobytes())})
started = time.perf_counter()
for frame in frames:
    session.run(session.output_names, {image.name: image.from_nv12(frame.tobytes())})
print("seconds", time.perf_counter() - started)
"""


def plain_loop(subject: Subject, frames: Path, threads: int) -> float:
    """Return the seconds of the loop; ``threads`` 0 uses the runtime's default."""
    assert subject.toolchain is not None
    workers = subject.toolchain.worker_path("quantized.py").parent
    args = ["-c", LOOP, str(workers), str(subject.files["quantized_onnx"]), str(frames), str(threads)]
    done = subject.toolchain.run_python(args, cwd=Path.cwd(), timeout=3600)
    return float(done.tail.split("seconds ")[1].split()[0])


def pool(subject: Subject, step: Step, images: ImageSet, workers: int) -> float:
    """Return the seconds that the step takes for all images after its workers have started."""
    with step.open(workers) as runner, tempfile.TemporaryDirectory() as scratch:

        @contextmanager
        def ready(_workers: int) -> Iterator[Runner]:
            yield runner

        runner(np.ascontiguousarray(resize_crop(images[0].load(), subject.preprocess)))
        opened = evolve(step, open=ready)
        with KeptAnswers(Path(scratch), judge_of(subject).width, print) as kept:
            found = measure(
                opened,
                kept,
                images=images,
                wanted=np.arange(len(images), dtype=np.int32),
                preprocess=subject.preprocess,
                judge=judge_of(subject),
                workers=workers,
                reporter=Quiet(),
            )
    return found.seconds


def first(subject: Subject, step: Step, images: ImageSet, workers: int, rounds: int) -> None:
    """Print images per second of the step and of the loops."""
    frames = np.stack(
        [rgb_to_nv12(np.ascontiguousarray(resize_crop(item.load(), subject.preprocess))) for item in images]
    )
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "frames.npy"
        np.save(path, frames)
        for _ in range(rounds):
            seconds.setdefault("step", []).append(pool(subject, step, images, workers))
            seconds.setdefault("loop", []).append(plain_loop(subject, path, 0))
            seconds.setdefault("loop, 1 thread", []).append(plain_loop(subject, path, 1))
    rates = {name: len(images) / min(times) for name, times in seconds.items()}
    print(f"quantized, {len(images)} images, best of {rounds} rounds:")
    print(f"  step, {workers} workers        {rates['step']:7.2f} images/s, decoding included")
    print(f"  loop, runtime's threads {rates['loop']:7.2f} images/s: ratio {rates['step'] / rates['loop']:.2f}")
    one = rates["loop, 1 thread"]
    print(f"  loop, one thread        {one:7.2f} images/s: ratio {rates['step'] / one:.2f}")


def second(subject: Subject, steps: list[Step], images: ImageSet) -> None:
    """Print the seconds of a full evaluation and of one added step."""
    with tempfile.TemporaryDirectory() as fresh, tempfile.TemporaryDirectory() as known:
        measured_on = MeasuredOn(images)
        evaluate(subject, [step for step in steps if step.name != "nv12"], measured_on, root=Path(known))
        started = time.perf_counter()
        added = evaluate(subject, steps, measured_on, root=Path(known))
        between = time.perf_counter()
        anew = evaluate(subject, steps, measured_on, root=Path(fresh))
        over = time.perf_counter() - between
    same = [step.agreement for step in added.steps] == [step.agreement for step in anew.steps]
    print(
        f"{len(steps)} steps from nothing {over:.1f} s, nv12 added {between - started:.1f} s: "
        f"ratio {over / (between - started):.1f}; same table: {same}"
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", type=Path)
    parser.add_argument("--images", default="demo:test")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        folder = options.build
        if folder is None:
            command = [sys.executable, "-m", "edge", "build", *DEMO, "--build-dir", scratch]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            folder = Path(scratch) / DEMO[0]
        built = open_built(folder)
        subject = subject_of(built, find("auto"))
        steps, _ = find_steps(subject)
        images = open_images(options.images, classes=subject.classes)
        if options.count:
            images = sample(images, options.count)
        quantized = next(step for step in steps if step.name == "quantized")
        first(subject, quantized, images, options.workers, options.rounds)
        second(subject, steps, images)


if __name__ == "__main__":
    main()
