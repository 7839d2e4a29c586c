"""A build in one line: what it is, what it costs in accuracy, how fast it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.report.measured import Accuracy
from edge.report.wording import signed


def verdict(manifest: Mapping[str, Any], accuracy: Accuracy) -> str:
    """Return the line."""
    return " ".join(filter(None, (_what(manifest), _accuracy(manifest, accuracy), _speed(manifest))))


def _what(manifest: Mapping[str, Any]) -> str:
    source = manifest["weights"]["source"]
    weights = f", {source} weights" if source in ("demo", "random") else ""
    if manifest["mapper"] == "portable":
        return f"Quantized by onnxruntime{weights}, an estimate of what the vendor's compiler gives."
    return f"Compiled for the RDK X5, precision {manifest['precision']}{weights}."


def _accuracy(manifest: Mapping[str, Any], accuracy: Accuracy) -> str:
    if manifest["weights"]["source"] == "random":
        return ""
    if accuracy.verdict:
        return accuracy.verdict.rstrip(".") + "."
    reference, quantized = accuracy.hop("float"), accuracy.hop(accuracy.quantized)
    if reference is None or quantized is None:
        return ""
    if reference.top1 is None or quantized.top1 is None:
        return f"It gives float's answer on {quantized.agreement:.1f} % of {quantized.n} pictures."
    return (
        f"Top-1 goes from {reference.top1:.1f} % to {quantized.top1:.1f} % "
        f"({signed(quantized.top1 - reference.top1, 1)} points on {quantized.n} pictures)."
    )


def _speed(manifest: Mapping[str, Any]) -> str:
    static = manifest["static"]
    if static is None:
        return ""
    level = "" if static["optimize_level"] == "O3" else f" at {static['optimize_level']}"
    return (
        f"The compiler gives {static['latency_us'] / 1000:.2f} ms a frame on the BPU{level}, "
        f"{static['fps']:.0f} FPS."
    )
