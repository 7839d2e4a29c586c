"""Build time and memory of edge compared with the bare vendor commands on the same inputs.

    python benchmarks/build_overhead.py ConvNeXt_atto --level O3

Both sides start from nothing and end with a .bin. The bare side runs a torch export, ``hb_mapper checker``
and ``hb_mapper makertbin`` with the YAML, ONNX and calibration files that edge made; the edge side runs
``edge check`` and ``edge compile``, which make all of these too. Accuracy is left out: the vendor has no
command for it. The compiler's own time at O3 varies by some 10 % from run to run.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edge.specs import load_model
from edge.toolchain.find import find


def edge_side(model: str, level: str, folder: Path) -> tuple[float, float]:
    """Return wall seconds and the peak MB of edge's own process."""
    probe = (
        "import resource, sys\n"
        "from edge.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    print('PEAK', peak, file=sys.stderr)\n"
    )
    options = [model, "--weights", "random", "--level", level, "--build-dir", str(folder)]
    peaks = []
    started = time.monotonic()
    for verb in ("check", "compile"):
        argv = [sys.executable, "-c", probe, verb, *options]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        peaks += [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("PEAK")]
    return time.monotonic() - started, max(peaks) / 1024


def bare_side(model: str, built: Path, folder: Path) -> float:
    """Return the wall seconds of the vendor's commands, run in sequence."""
    toolchain = find()
    stages = {path.name.rsplit("-", 1)[0]: path for path in (built / ".stages").iterdir()}
    for source in [*stages["render"].glob("*.yaml"), *stages["simplify"].glob("*.onnx")]:
        shutil.copy(source, folder)
    for source in stages["calibrate"].glob("calibration_data_*"):
        shutil.copytree(source, folder / source.name)
    yaml, onnx = next(folder.glob("*.yaml")), next(folder.glob("*.onnx"))
    spec = load_model(model)
    export = (
        "import torch, timm; torch.manual_seed(0)\n"
        f"net = timm.create_model({str(spec.sources.timm)!r}).eval()\n"
        f"torch.onnx.export(net, torch.zeros{spec.preprocess.input_shape}, 'bare.onnx', opset_version=11)\n"
    )
    commands = (
        [str(toolchain.python), "-c", export],
        ["hb_mapper", "checker", "--model-type", "onnx", "--march", "bayes-e", "--model", onnx.name],
        ["hb_mapper", "makertbin", "-c", yaml.name, "--model-type", "onnx"],
    )
    started = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        for command in commands:
            subprocess.run(command, cwd=folder, env=toolchain.environ(), stdout=log, stderr=log, check=True)
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="ConvNeXt_atto")
    parser.add_argument("--level", default="O3")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        built, bare = Path(scratch, "edge"), Path(scratch, "bare")
        bare.mkdir()
        seconds, peak = edge_side(arguments.model, arguments.level, built)
        reference = bare_side(arguments.model, built / arguments.model, bare)
        vendor_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{arguments.model} {arguments.level}, random weights, {os.cpu_count()} cores")
    print(f"edge check, compile:   {seconds:7.1f} s, own process at most {peak:.0f} MB")
    print(f"bare vendor commands:  {reference:7.1f} s, largest process {vendor_peak:.0f} MB")
    print(f"ratio of time: {seconds / reference:.3f}   ratio of memory: {peak / vendor_peak:.3f}")


if __name__ == "__main__":
    main()
