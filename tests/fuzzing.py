"""Seeded cases of damaged input, and what runs them: each in a process of its own, forked from a warm one.

``python -m tests.fuzzing KIND FIRST COUNT FOLDER`` prints a JSON line for each case that breaks a promise. A case is
named by its kind and number, and is the same on every run: the line's command shows how to repeat it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

SECONDS, MEGABYTES = 60, 2000
# What libraries write to the terminal by themselves, past edge.
NOISE = re.compile(
    r"Traceback|error: unexpected|__init__|Warning: |libpng|libjpeg|TIFF_|Corrupt JPEG|JPEG data|OpenJPEG|"
    r"\[ *(WARN|ERROR|INFO)|\[[WEF]:onnx|terminate called|Segmentation|onnx\.checker\.V|cv2\.error|imgcodecs|"
    r"\x1b\[[0-9;]*[A-Za-ln-z]|\x00"
)


@frozen
class Outcome:
    """What one command did."""

    code: int  #: exit code; negative: the signal that ended it.
    out: str
    err: str
    seconds: float
    megabytes: float  #: the most that it held.


def run(arguments: Sequence[str], folder: Path) -> Outcome:
    """Run ``edge`` in a child of this process; a group of its own, so that nothing of it stays."""
    started = time.monotonic()
    paths = {1: folder.parent / "stdout", 2: folder.parent / "stderr"}
    pid = os.fork()
    if pid == 0:
        _child(arguments, folder, paths)
    watch = time.monotonic() + SECONDS + 10
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > watch:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    out, err = (path.read_text(errors="replace") for path in paths.values())
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, out, err, time.monotonic() - started, usage.ru_maxrss / 1024)


def _child(arguments: Sequence[str], folder: Path, paths: dict[int, Path]) -> None:
    code = 3
    try:
        os.setpgid(0, 0)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # the machine's memory, not the promise
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in paths.items():
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(folder)
        from edge.cli import main

        main(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def broken(outcome: Outcome) -> list[str]:
    """Return the promises that a command broke."""
    found = []
    if outcome.code == -signal.SIGALRM:
        found.append(f"took more than {SECONDS} s")
    elif outcome.code not in (0, 1, 2):
        found.append(f"exit code {outcome.code}")
    if noise := NOISE.search(outcome.err) or NOISE.search(outcome.out):
        found.append(f"noise: {noise.group()!r}")
    said = re.search(r"^ *(next|expected): |^Error: |-help' for help|\bexpected ", outcome.err, re.MULTILINE)
    told = '"findings"' in outcome.out or re.search(r"^\S*\.yaml", outcome.out, re.MULTILINE)  # edge lint's verdict
    if outcome.code in (1, 2) and not said and not told:
        found.append("the error has neither next: nor expected:")
    if outcome.megabytes > MEGABYTES:
        found.append(f"{outcome.megabytes:.0f} MB of memory")
    return found


def snapshot(root: Path, without: Path) -> dict[str, str]:
    """Return path -> what is there, of everything below a folder but one part."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(place, name) != without]
        for name in (*files, *folders):
            path = Path(place, name)
            if path.is_symlink():
                found[str(path)] = f"link {path.readlink()}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size < 1e8 else "big"
            else:
                found[str(path)] = "folder" if path.is_dir() else "other"
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def one(kind: str, number: int, root: Path, keep: bool = False) -> dict[str, Any] | None:
    """Run one case; return what it broke, None if nothing."""
    from tests.fuzz_cases import KINDS

    rng = random.Random(f"{kind}:{number}")
    area = root / "area"
    shutil.rmtree(area, ignore_errors=True)
    for name in ("outside", "case", "tmp", "home"):
        (area / name).mkdir(parents=True)
    (area / "outside" / "keep.txt").write_text("0\n1\n2\n3\n")
    (area / "outside" / "folder").mkdir()
    (area / "outside" / "folder" / "keep.bin").write_bytes(bytes(range(256)))
    os.environ.update(TMPDIR=str(area / "tmp"), HOME=str(area / "home"), EDGE_CACHE=str(area / "home" / "cache"))
    folder = area / "case"
    try:
        commands = KINDS[kind](rng, folder)
    except Exception as error:
        raise RuntimeError(f"{kind}:{number}: the case itself failed") from error
    for arguments in commands:
        before = snapshot(area, folder / "build")
        outcome = run(arguments, folder)
        (area / "stdout").unlink(missing_ok=True)
        (area / "stderr").unlink(missing_ok=True)
        found = broken(outcome)
        if touched := changes(before, snapshot(area, folder / "build")):
            found.append(f"changed outside the build folder: {', '.join(touched[:3])}")
        if found:
            return {
                "case": f"{kind}:{number}", "broken": found, "command": shlex.join(["edge", *arguments]),
                "code": outcome.code, "err": outcome.err[-1500:], "out": outcome.out[-300:],
            }  # fmt: skip
        if keep:
            print(json.dumps({"command": shlex.join(arguments), "code": outcome.code, "s": round(outcome.seconds, 2),
                              "MB": round(outcome.megabytes), "err": outcome.err[-500:]}), flush=True)  # fmt: skip
    return None


def main(kind: str, first: int, count: int, folder: Path) -> None:
    """Run cases, and print what they broke."""
    for name in (
        "edge",  # sets OpenCV's limits before it is imported
        "cv2", "onnx", "onnx.shape_inference", "onnxruntime", "yaml", "cattrs", "edge.api", "edge.runtime",
        *(f"edge.cli.{verb}" for verb in ("build", "run", "eval", "report", "bundle", "bench", "lint", "importing")),
        "edge.pipeline.build", "edge.report", "edge.accuracy", "edge.compiler.lint", "edge.compiler.importing",
    ):  # fmt: skip
        importlib.import_module(name)
    gc.freeze()
    keep = bool(os.environ.get("EDGE_FUZZ_SHOW"))
    for number in range(first, first + count):
        if verdict := one(kind, number, folder, keep):
            print(json.dumps(verdict), flush=True)
    print(json.dumps({"done": count}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]).resolve())
