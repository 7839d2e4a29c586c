"""Static speed of the zoo's models compared with the vendor's published figures for the board.

    python benchmarks/static_speed.py [MODEL ...] --level O3 --precision int8

Compiles each with random weights. The static figure counts the BPU part only; the published one was
measured on the board with four threads and includes the CPU's part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from edge.specs import available_models, load_model


def main() -> None:
    """Compile and print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=None)
    parser.add_argument("--level", default="O3")
    parser.add_argument("--precision", default="int8", help="a recipe; 'recipe' is the model's own")
    arguments = parser.parse_args()
    print("model            static FPS       us   DDR bytes  board FPS  ratio compile s")
    for name in arguments.models or available_models():
        with tempfile.TemporaryDirectory() as scratch:
            argv = [
                "compile",
                name,
                "--weights",
                "random",
                "--level",
                arguments.level,
                *([] if arguments.precision == "recipe" else ["--precision", arguments.precision]),
                "--build-dir",
                scratch,
                "--json",
            ]
            edge = Path(sys.executable).with_name("edge")
            done = subprocess.run([str(edge), *argv], stdout=subprocess.PIPE, text=True, check=True)
        stage = json.loads(done.stdout)
        static, published = stage["result"]["static"], load_model(name).published
        board = published.fps_4_threads if published else None
        ratio = f"{static['fps'] / board:.3f}" if board else "-"
        print(
            f"{name:<16} {static['fps']:>10.2f} {static['latency_us']:>8.1f} {static['ddr_bytes']:>11,} "
            f"{board or '-':>10} {ratio:>6} {stage['seconds']:>9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
