"""Run onnxsim in a separate process: ``onnxsim_child.py IN OUT [--no-optimizer] [SKIPPED_PASS ...]``.

onnxsim is C++ that writes to the console and may crash; neither may reach the command line's process.
This file is run as a script and imports nothing of edge.
"""

from __future__ import annotations

import sys


def main(source: str, target: str, *options: str) -> None:
    """Simplify one file into another.

    Args:
        options: ``--no-optimizer`` to fold constants and infer shapes only; else names of passes to skip.
    """
    import onnx
    import onnxsim

    optimize = "--no-optimizer" not in options
    skipped = [name for name in options if not name.startswith("--")]
    model, _ = onnxsim.simplify(
        onnx.load(source), perform_optimization=optimize, skipped_optimizers=skipped if optimize else None
    )
    onnx.save(model, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
