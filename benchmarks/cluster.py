"""What ``--cluster`` gains: two one-core workers against one core, a simulation of 1 to 64, and 50,000 images.

    python benchmarks/cluster.py tune -- net.onnx --mean 127.5 --std 127.5 --images val/ --calib train/
    python benchmarks/cluster.py eval -- ConvNeXt_atto --images val/ --count 0 --steps float,nv12,portable
    python benchmarks/cluster.py record trace.json -- net.onnx --images val/ --calib train/
    python benchmarks/cluster.py simulate trace.json
    python benchmarks/cluster.py many --images 50000

What stands behind ``--`` is for ``edge tune`` or ``edge eval``. ``tune`` and ``eval`` run the command alone on one
core, then on two workers with one core each, whose scheduler and client share these cores; both must give the same.
``record`` writes what a search on a cluster sent and waited for, and how long each task worked. ``simulate`` does it
again with the real client and a real scheduler, but workers that sleep, at a fraction of the time. ``many`` evaluates
synthetic images alone and on workers, and prints the memory of client and scheduler, and the processor time of both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from edge.cluster.jobs import Job
from edge.cluster.pool import Cluster
from edge.cluster.worker import Here, Task, identity
from edge.progress import Quiet

EDGE = [sys.executable, "-m", "edge"]
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
RARELY = {"DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s"}  # as the guide has it
TIMES = ("seconds", "time", "command", "recipe", "compile_s", "verify_s", "measure_s", "computed")
WORKERS = (1, 2, 4, 8, 16, 32, 64)
SIZE = 224


# --- two workers against one process


@contextmanager
def pinned_workers(count: int, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Start a scheduler and workers with one thread and one core each; give the address and the scheduler's process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, env = f"tcp://127.0.0.1:{port}", {**os.environ, **THREADS, **RARELY}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--memory-limit", "0"]
    quiet: dict[str, Any] = {"env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    started = [subprocess.Popen([*dask, "--port", str(port), "--dashboard-address", ":0"], **quiet)]
    cores = sorted(os.sched_getaffinity(0))
    for number in range(count):
        pin = ["taskset", "-c", str(cores[number % len(cores)])]
        started.append(subprocess.Popen([*pin, *worker, "--name", f"w{number}", "--dashboard-address", ":0"], **quiet))
    try:
        yield address, psutil.Process(started[0].pid)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


def compare(verb: str, words: list[str]) -> None:
    """Run a command alone on one core and on two workers; print the ratio, and whether the results are the same."""
    file = "tune.json" if verb == "tune" else "eval.json"
    with tempfile.TemporaryDirectory(prefix="edge-cluster-") as name:
        folder, found, seconds = Path(name), [], []
        env = {**os.environ, **THREADS}
        core = str(min(os.sched_getaffinity(0)))
        for where in ("alone", "together"):
            build = ["--build-dir", str(folder / where)]
            if verb == "eval":
                shutil.copytree(Path("build"), folder / where, symlinks=True)
                shutil.rmtree(next((folder / where).glob(f"{Path(words[0]).name}/.outputs"), folder / "none"), True)
            if where == "alone":
                started = time.monotonic()
                subprocess.run(["taskset", "-c", core, *EDGE, verb, *words, *build], env=env, check=False)
                seconds.append(time.monotonic() - started)
            else:
                with pinned_workers(2, folder) as (address, _):
                    time.sleep(5)  # the workers start
                    started = time.monotonic()
                    subprocess.run([*EDGE, verb, *words, *build, "--cluster", address], env=env, check=False)
                    seconds.append(time.monotonic() - started)
            found.append(without_times(json.loads(next((folder / where).glob(f"*/{file}")).read_text())))
    same = "the same result" if found[0] == found[1] else "ANOTHER RESULT"
    print(
        f"edge {verb}: alone {seconds[0]:.1f} s, two workers {seconds[1]:.1f} s: {seconds[0] / seconds[1]:.2f}x, {same}"
    )


def without_times(value: Any) -> Any:
    """Return JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


# --- a simulation


class Recorded(Cluster):
    """A cluster that writes down what is sent, waited for and taken back."""

    def __init__(self, *arguments: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.jobs: list[Job] = []
        self._since = time.monotonic()
        super().__init__(*arguments)

    def _event(self, **what: Any) -> None:
        self.events.append({**what, "thought": round(time.monotonic() - self._since, 4)})

    def submit(self, task: Task, *arguments: Any, **options: Any) -> Job:
        """Send a task."""
        self._event(do="send", task=len(self.jobs), priority=options.get("priority", 0), memory=task.memory)
        job = super().submit(task, *arguments, **options)
        self.jobs.append(job)
        self._since = time.monotonic()
        return job

    def wait(self, job: Job) -> Any:
        """Wait for a task."""
        self._event(do="take", task=self.jobs.index(job))
        outcome = super().wait(job)
        self._since = time.monotonic()
        return outcome

    def turn(self, *arguments: Any) -> None:
        """Take what has ended; waiting for it is no thinking."""
        before = time.monotonic()
        super().turn(*arguments)
        self._since += time.monotonic() - before

    def used(self, key: str) -> None:
        """Write down that a trial's result is used, which may have come back before."""
        for number, job in enumerate(self.jobs):
            options = job.task.options
            if key == (options.get("key") or getattr(options.get("blank"), "key", None)):
                self._event(do="take", task=number)

    def cancel(self, jobs: Any) -> None:
        """Take tasks back."""
        jobs = list(jobs)
        if jobs:
            self._event(do="drop", tasks=[self.jobs.index(job) for job in jobs])
        super().cancel(jobs)
        self._since = time.monotonic()

    def trace(self) -> dict[str, Any]:
        """Return all of it, with each task's seconds of work."""
        tasks = [
            {"title": job.task.title, "seconds": round(job.outcome.seconds, 3) if job.outcome else 0.0}
            for job in self.jobs
        ]
        return {"tasks": tasks, "events": self.events}


def record(path: Path, words: list[str]) -> None:
    """Search on two workers of this machine, and write the trace."""
    from unittest import mock

    import edge.cluster
    from edge.cli import main as edge_main
    from edge.toolchain.find import find
    from edge.tune.journal import Entry, Journal

    opened: list[Recorded] = []
    once = Journal.once

    def open_(url: str, listener: Any, **_: Any) -> Recorded:
        compiler = find("auto")
        opened.append(Recorded(url, listener, identity(compiler.identity, compiler.kind)))
        return opened[0]

    def told(journal: Journal, *arguments: Any, **options: Any) -> Entry:
        entry = once(journal, *arguments, **options)
        opened[0].used(entry.key)
        return entry

    with mock.patch.object(edge.cluster, "open_cluster", open_), mock.patch.object(Journal, "once", told):
        try:
            edge_main(["tune", *words, "--cluster", "local:2"])
        except SystemExit:
            pass
        finally:
            path.write_text(json.dumps(opened[0].trace()))


def sleep(_here: Here, *, seconds: float) -> None:
    """Work that takes so long and does nothing."""
    time.sleep(seconds)


def simulate(path: Path, scale: float, counts: Sequence[int]) -> None:
    """Do a recorded search again with workers that sleep, and print how long it takes with more and more of them."""
    import distributed

    trace = json.loads(path.read_text())
    tasks, events = trace["tasks"], trace["events"]
    thought = sum(event["thought"] for event in events)
    taken = {event["task"] for event in events if event["do"] == "take"}
    work = sum(tasks[number]["seconds"] for number in taken)
    alone = work + thought
    print(f"{len(taken)} tasks, {work:.0f} s of work, {thought:.0f} s of the client's own; alone {alone:.0f} s")
    print(f"the longest chain bounds it; times below at {scale:g} of the real ones, scaled back")
    print(f"{'workers':>7} {'seconds':>8} {'gain':>6} {'of the work, not needed':>24}")
    for count in counts:
        with (
            distributed.LocalCluster(
                n_workers=count, threads_per_worker=1, processes=False, dashboard_address=":0", memory_limit=0
            ) as local,
            Cluster(local.scheduler_address, Quiet(), identity()) as cluster,
        ):
            jobs: dict[int, Job] = {}
            started = time.monotonic()
            for event in events:
                time.sleep(scale * event["thought"])
                if event["do"] == "send":
                    one = tasks[event["task"]]
                    task = Task(one["title"], sleep, {"seconds": scale * one["seconds"]})
                    jobs[event["task"]] = cluster.submit(task, priority=event["priority"])
                elif event["do"] == "take":
                    cluster.wait(jobs[event["task"]])
                else:
                    cluster.cancel([jobs[number] for number in event["tasks"] if not jobs[number].over])
            seconds = (time.monotonic() - started) / scale
            spare = cluster.counts.seconds / scale - work
        print(f"{count:>7} {seconds:>8.0f} {alone / seconds:>5.2f}x {100 * max(spare, 0) / work:>22.0f} %")


# --- 50,000 images


def save_net(path: Path, classes: int, width: int) -> Path:
    """Save a network of two convolutions, a pooling layer and a linear one."""
    rng = np.random.default_rng(0)
    shapes = {"a": (width, 3, 3, 3), "b": (width, width, 3, 3), "w": (width, classes)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), n) for n, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], name="one", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["1"], ["2"], name="relu"),
        helper.make_node("Conv", ["2", "b"], ["3"], name="two", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["3"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "many",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def save_images(folder: Path, n: int) -> None:
    """Save n images, no two alike."""
    folder.mkdir()
    for index in range(n):
        rgb = np.full((SIZE, SIZE, 3), (index % 251, 128, 60), np.uint8)
        rgb[SIZE // 2 :: 2] ^= 63
        for bit in range(18):  # the number as squares
            rgb[:12, 12 * bit : 12 * bit + 12] = 255 * (index >> bit & 1)
        cv2.imwrite(str(folder / f"{index:06d}.jpg"), rgb)


def cpu_of_children() -> float:
    """Return the processor seconds of all ended children and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def many(n: int, workers: int, width: int) -> None:
    """Evaluate many images alone and on workers; print the processor time of both, and the client's memory."""
    with tempfile.TemporaryDirectory(prefix="edge-many-") as name:
        folder, env = Path(name), {**os.environ, **THREADS}
        save_images(folder / "few", 60)
        net = save_net(folder / "many.onnx", 1000, width)
        norm = ["--mean", "0", "--std", "255", "--resize", str(SIZE), "--crop", str(SIZE)]
        sets = ["--images", "few", "--calib", "few", "--calib-count", "20", "--compiler", "onnxruntime"]
        subprocess.run([*EDGE, "build", str(net), *norm, *sets], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(folder / "build", folder / "alone", symlinks=True)
        save_images(folder / "images", n)
        words = [*EDGE, "eval", "many", "--images", "images", "--count", "0", "--steps", "float,nv12,portable"]
        before = cpu_of_children()
        subprocess.run([*words, "--build-dir", "alone"], cwd=folder, check=True, env=env)
        alone = cpu_of_children() - before
        with pinned_workers(workers, folder) as (address, scheduler), (folder / "log").open("w") as log:
            time.sleep(5)
            client = subprocess.Popen([*words, "--cluster", address], cwd=folder, stdout=log, stderr=log, env=env)
            peaks, half = {"client": [0, 0], "scheduler": [0, 0]}, False
            while client.poll() is None:
                time.sleep(0.2)
                with contextlib.suppress(psutil.NoSuchProcess):
                    own = psutil.Process(client.pid)
                    sizes = {"client": own.memory_info().rss, "scheduler": scheduler.memory_info().rss}
                    half = half or "float" in (folder / "log").read_text()
                    for part, size in sizes.items():
                        peaks[part][half] = max(peaks[part][half], size)
        together = cpu_of_children() - before - alone
        print("\n".join(line for line in (folder / "log").read_text().splitlines() if line.startswith(("✓", "!"))))
        if client.returncode:
            raise SystemExit("edge eval failed")
        same = (folder / "alone/many/answers.csv").read_bytes() == (folder / "build/many/answers.csv").read_bytes()
        print(
            f"{n} images, {'the same answers' if same else 'OTHER ANSWERS'}: processor time alone {alone:.0f} s,",
            end="",
        )
        print(f" with scheduler and {workers} workers {together:.0f} s: {100 * (together / alone - 1):+.1f} %")
        for part, (first, later) in peaks.items():
            print(f"  {part:<10} {first / 1e6:.0f} MB at most in the first step, {later / 1e6:.0f} MB later")


def main() -> None:
    """Measure and print."""
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "eval", "record", "simulate", "many"))
    parser.add_argument("trace", nargs="?", type=Path, default=Path("trace.json"))
    parser.add_argument("--scale", type=float, default=0.02, help="of the recorded times")
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=32, help="channels of the network of many images")
    given = parser.parse_args(words[:at])
    if given.what in ("tune", "eval"):
        compare(given.what, words[at + 1 :])
    elif given.what == "record":
        record(given.trace, words[at + 1 :])
    elif given.what == "simulate":
        simulate(given.trace, given.scale, given.workers)
    else:
        many(given.images, 2, given.width)


if __name__ == "__main__":
    main()
