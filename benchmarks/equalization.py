"""The gain of equalized channels over the same recipe without them, and their cost in time on the BPU (none).

    python benchmarks/equalization.py MODEL --images DIR [options of edge build]

Builds MODEL twice, with the recipe int8_equalized and with the same without its key 'equalization'. Prints how many
answers of the float network behind NV12 each program keeps on the same images, the exact McNemar test between the two,
and the static latency of each. ``--level O0`` is fastest; the latency depends on the level, the integers do not.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from attrs import evolve
from weight_rounding import build

from edge.measure.statistics import mcnemar
from edge.specs import load_precision, save_precision

RECIPE = "int8_equalized"


def main() -> None:
    """Compare the two recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    known, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        equalized = load_precision(RECIPE)
        without = Path(scratch, "without.yaml")
        save_precision(without, evolve(equalized, name="without", equalization=None))
        built = {
            Path(choice).stem: build(choice, [known.model, *others], Path(scratch, "build"))
            for choice in (str(without), RECIPE)
        }
    before, after = built.values()
    n = len(before.kept)
    pairs = list(zip(before.kept, after.kept, strict=True))
    lost, gained = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    for name, one in built.items():
        print(
            f"{name:15} agreement with float behind NV12 {100 * sum(one.kept) / n:6.2f} %, n = {n}, "
            f"static {one.latency_us:.1f} us"
        )
    wrong = [n - sum(one.kept) for one in (before, after)]
    print(
        f"ratio           {wrong[1] / wrong[0] if wrong[0] else 1:.2f} of the changed answers, "
        f"{after.latency_us / before.latency_us:.3f} of the latency; "
        f"{gained} answers won, {lost} lost, p = {mcnemar(lost, gained):.2g}"
    )


if __name__ == "__main__":
    main()
