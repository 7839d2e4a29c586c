"""The gain of error-compensated weights over the compiler's own rounding, and their cost in time on the BPU (none).

    python benchmarks/weight_rounding.py MODEL --images DIR [options of edge build]

Builds MODEL twice, with the recipes int8 and int8_rounded. Prints how many answers of the float network behind NV12
each program keeps on the same images, the exact McNemar test between the two, and the static latency of each.
``--level O0`` is fastest; the latency depends on the level, the integers do not.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from attrs import frozen

from edge.measure.statistics import mcnemar

RECIPES = ("int8", "int8_rounded")


@frozen
class Built:
    """One build: per image whether its answer is the float network's behind NV12, and static latency."""

    kept: list[bool]
    latency_us: float


def build(recipe: str, arguments: list[str], folder: Path) -> Built:
    """Build and evaluate with a recipe, by name or path."""
    edge = [sys.executable, "-m", "edge"]
    place = folder / Path(recipe).stem
    where = ["--build-dir", str(place)]
    command = [*edge, "build", *arguments, "--precision", recipe, *where]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    root = next(path for path in place.iterdir() if path.is_dir())
    images = [value for option in ("--images", "--count") for value in given(arguments, option)]
    steps = ["--steps", "float,nv12,portable"]
    subprocess.run([*edge, "eval", str(root), *images, *steps], check=True, stdout=subprocess.DEVNULL)
    with (root / "answers.csv").open(encoding="utf-8", newline="") as stream:
        kept = [row["nv12"] == row["portable"] for row in csv.DictReader(stream)]
    manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    return Built(kept, float(manifest["static"]["latency_us"]))


def given(arguments: list[str], option: str) -> list[str]:
    """Return an option and its value, if it is given."""
    return arguments[arguments.index(option) :][:2] if option in arguments else []


def main() -> None:
    """Compare the two recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    known, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        plain, rounded = (build(recipe, [known.model, *others], Path(scratch)) for recipe in RECIPES)
    n = len(plain.kept)
    pairs = list(zip(plain.kept, rounded.kept, strict=True))
    lost, gained = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    wrong = [n - sum(built.kept) for built in (plain, rounded)]
    for recipe, built in zip(RECIPES, (plain, rounded), strict=True):
        print(
            f"{recipe:13} agreement with float behind NV12 {100 * sum(built.kept) / n:6.2f} %, n = {n}, "
            f"static {built.latency_us:.1f} us"
        )
    print(
        f"ratio         {wrong[1] / wrong[0] if wrong[0] else 1:.2f} of the changed answers, "
        f"{rounded.latency_us / plain.latency_us:.3f} of the latency; "
        f"{gained} answers won, {lost} lost, p = {mcnemar(lost, gained):.2g}"
    )


if __name__ == "__main__":
    main()
