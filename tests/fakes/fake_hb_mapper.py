"""A stand-in for hb_mapper, scripted by the file that FAKE_HB_MAPPER names; line one is the mode.

Modes: ok, plots, no-bin, empty-bin, garbage, flood, hang, hang-hard, killed, crash, disk-full, memory,
traceback, and log:NAME:STATUS, which prints tests/fakes/logs/NAME.txt and exits with STATUS.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

LOGS = Path(__file__).resolve().parent / "logs"


def say(name: str) -> None:
    # The real one mixes stdout and stderr, colours and carriage returns.
    sys.stderr.buffer.write((LOGS / f"{name}.txt").read_bytes())
    sys.stderr.flush()


def write_results(folder: Path, prefix: str, mode: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("original_float", "optimized_float", "calibrated", "quantized"):
        (folder / f"{prefix}_{part}_model.onnx").write_bytes(b"fake " + part.encode())
    (folder / f"{prefix}_quant_info.json").write_text("{}")
    if mode == "plots":  # what bias_correction leaves
        (folder / "bias_correction").mkdir()
        (folder / "bias_correction" / "error.png").write_bytes(b"a plot")
    if mode != "no-bin":
        (folder / f"{prefix}.bin").write_bytes(b"" if mode == "empty-bin" else b"fake program")


def spawn_child() -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ["FAKE_HB_MAPPER"] + ".pids").write_text(f"{os.getpid()} {child.pid}")
    return child


def main() -> int:
    if "--version" in sys.argv:
        print("hb_mapper, version 1.24.3")
        return 0
    mode = Path(os.environ["FAKE_HB_MAPPER"]).read_text().split("\n")[0]
    if mode.startswith("log:"):
        _, name, status = mode.split(":")
        say(name)
        return int(status)
    if mode in ("ok", "plots", "no-bin", "empty-bin"):
        if "checker" in sys.argv:
            say("checker_atto")
            return 0
        yaml = Path(sys.argv[sys.argv.index("-c") + 1])
        text = yaml.read_text()
        value = {
            key: re.search(rf"{key}: *['\"]?([^'\"\n]+)", text)[1]
            for key in ("working_dir", "output_model_file_prefix")
        }
        say("makertbin_tiny")
        Path("hb_mapper_makertbin.log").write_text("vendor's own log\n")
        write_results(yaml.parent / value["working_dir"], value["output_model_file_prefix"], mode)
        return 0
    if mode == "garbage":
        sys.stdout.buffer.write(bytes(range(256)) * 50)
        return 3
    if mode == "flood":
        for _ in range(40):
            sys.stdout.buffer.write(b"x" * 100_000)
        return 3
    if mode in ("hang", "hang-hard"):
        if mode == "hang-hard":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("unsup")
        spawn_child()
        time.sleep(600)
    if mode == "killed":
        say("unsup")
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "crash":
        say("unsup")
        return 139
    if mode == "disk-full":
        print("OSError: [Errno 28] No space left on device: 'x.onnx'")
        return 255
    if mode == "memory":
        print("MemoryError: Unable to allocate 9.00 GiB for an array with shape (1, 2)")
        return 255
    if mode == "traceback":
        print("Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\nKeyError: 'march'")
        return 1
    raise SystemExit(f"no such mode: {mode}")


if __name__ == "__main__":
    sys.exit(main())
