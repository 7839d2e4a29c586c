"""The short table at the end of a build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edge.report.wording import interval, static_line, verify_line


def summary(manifest: Mapping[str, Any], root: Path) -> str:
    """Return the table, from the manifest alone."""
    rows = [("model", _title(manifest))]
    accuracy = manifest["accuracy"]
    n, dataset = accuracy["n"], accuracy["dataset"]
    if accuracy["float"] and accuracy["quantized"]:
        for key, title in (("top1", "Top-1"), ("top5", "Top-5")):
            before, after = accuracy["float"], accuracy["quantized"]
            rows.append(
                (
                    title,
                    f"float {before[key]:.2f} % {interval(before, key)} → "
                    f"quantized {after[key]:.2f} % {interval(after, key)}",
                )
            )
    rows.append(
        ("agreement", f"{accuracy['agreement']:.2f} % same answer as float, cosine {accuracy['cosine']:.4f}")
    )
    rows.append(("measured on", f"n = {n}, {dataset}"))
    if manifest["verify"]:
        rows.append(("verify", verify_line(manifest["verify"])))
    if manifest["static"]:
        rows.append(("static BPU", static_line(manifest["static"])))
    if manifest["placement"]:
        placement = manifest["placement"]
        rows.append(("nodes", f"{placement['bpu']} on the BPU, {placement['cpu']} on the CPU"))
    product = manifest["artifacts"][0]
    rows.append(("program" if product["role"] == "bin" else "int8 ONNX", str(root / product["path"])))
    rows.append(("size", f"{product['bytes']:,} bytes"))
    rows.append(("sha256", product["sha256"]))
    rows.append(("report", str(root / "report.html")))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{click.style(name.ljust(width), bold=True)}  {text}" for name, text in rows)


def _title(manifest: Mapping[str, Any]) -> str:
    weights = manifest["weights"]
    source = f"{weights['source']} weights" + (f" {weights['tag']}" if weights.get("tag") else "")
    return f"{manifest['name']} ({source}, precision {manifest['precision']}, mapper {manifest['mapper']})"
