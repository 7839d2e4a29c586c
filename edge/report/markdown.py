"""``report.md``: what a build made and measured, from the manifest's facts alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

INTERVAL_NOTE = "Intervals are 95 % Wilson intervals."


def report(
    facts: Mapping[str, Any], files: Iterable[tuple[str, str]], published: Mapping[str, Any] | None
) -> str:
    """Return the Markdown text.

    Args:
        facts: the manifest without its list of files.
        files: (role, name) of the published files.
        published: figures of others for the same model, to compare with.
    """
    return "\n".join(
        [
            f"# {facts['name']}",
            "",
            f"`{facts['command']}`",
            "",
            *_origin(facts),
            "",
            "## Accuracy",
            "",
            *_accuracy(facts["accuracy"]),
            "",
            *_verify(facts),
            *_speed(facts, published),
            *_calibration(facts),
            "## Stages",
            "",
            *_table(
                ("stage", "seconds", "command"),
                [(s["name"], f"{s['seconds']:.1f}", f"`{s['command']}`") for s in facts["stages"]],
            ),
            "",
            "## Files",
            "",
            *_table(("role", "file"), [(role, f"`{name}`") for role, name in files]),
            "",
            "Sizes and hashes are in `manifest.json`.",
            "",
        ]
    )


def interval(score: Mapping[str, Any], key: str) -> str:
    """Return the 95 % interval of ``top1`` or ``top5`` as text."""
    low, high = score[f"{key}_interval"]
    return f"[{low:.1f}, {high:.1f}]"


def static_line(static: Mapping[str, Any]) -> str:
    """Return the compiler's static figures on one line."""
    return (
        f"{static['latency_us']:.1f} us, {static['fps']:.2f} FPS, {static['ddr_bytes']:,} DDR bytes a frame "
        f"({static['march']}, {static['optimize_level']})"
    )


def verify_line(verify: Mapping[str, Any]) -> str:
    """Return on one line whether the compiled program is what was measured."""
    if verify["bit_exact"] is None:
        return f"not verified: {verify['why_not']}"
    part = "" if verify["calls"] == 1 else f" (the first of {verify['calls']} BPU parts)"
    return (
        f"the compiled program{part} equals the quantized model bit for bit: {verify['frames']} frames of "
        f"{verify['integers']:,} integers"
        + ("; so does the portable model" if verify["portable_exact"] else "")
    )


def _origin(facts: Mapping[str, Any]) -> list[str]:
    weights, versions = facts["weights"], facts["toolchain"]["versions"]
    lines = [
        f"- model: {facts['model']}",
        f"- weights: {weights['source']}" + (f", {weights['tag']}" if weights.get("tag") else ""),
        f"- precision: {facts['precision']}",
        f"- mapper: {facts['mapper']} ({', '.join(f'{name} {v}' for name, v in sorted(versions.items()))})",
    ]
    if weights["source"] == "demo":
        lines.append(
            "- **demo weights**: trained on pictures that the project renders; they prove the pipeline "
            "and say nothing of ImageNet"
        )
    if weights["source"] == "random":
        lines.append("- **random weights**: for speed only")
    if facts["mapper"] == "portable":
        lines.append(
            "- **portable**: quantized by onnxruntime; an estimate of what the vendor's compiler gives"
        )
    return lines


def _accuracy(accuracy: Mapping[str, Any]) -> list[str]:
    lines = []
    if accuracy["float"] and accuracy["quantized"]:
        rows = [
            (
                name,
                *(f"{accuracy[name][key]:.2f} % {interval(accuracy[name], key)}" for key in ("top1", "top5")),
            )
            for name in ("float", "quantized")
        ]
        lines += [
            *_table(("", "Top-1", "Top-5"), rows),
            "",
            f"Top-1 drop: {accuracy['drop']:.2f} points. {INTERVAL_NOTE}",
            "",
        ]
    lines += [
        f"Agreement with float: {accuracy['agreement']:.2f} % same answer, mean cosine of the scores "
        f"{accuracy['cosine']:.4f}.",
        "",
        f"Measured on n = {accuracy['n']}: {accuracy['dataset']}. "
        f"The quantized network ran in {accuracy['quantized_by']}.",
    ]
    if accuracy["unreadable"]:
        lines += ["", f"Unreadable and left out: {', '.join(accuracy['unreadable'])}."]
    return lines


def _verify(facts: Mapping[str, Any]) -> list[str]:
    verify = facts["verify"]
    if verify is None:
        return []
    where = "In the compiler's simulator: " if verify["bit_exact"] else "The compiled program was "
    return [f"{where}{verify_line(verify)}.", ""]


def _speed(facts: Mapping[str, Any], published: Mapping[str, Any] | None) -> list[str]:
    static, placement = facts["static"], facts["placement"]
    if static is None:
        return []
    lines = ["## Speed", "", f"Compiler's static figure for the BPU part: {static_line(static)}."]
    if placement:
        lines.append(f"Nodes: {placement['bpu']} on the BPU, {placement['cpu']} on the CPU.")
        if placement["cpu_inside"]:
            lines.append(f"CPU nodes inside the network: {', '.join(placement['cpu_inside'])}.")
    if published and published.get("fps_4_threads"):
        lines += [
            "",
            f"Published ({published['source']}): {published['fps_4_threads']} FPS with 4 threads, "
            f"{published['latency_ms']} ms with 1 thread, "
            f"Top-1 {published['float_top1']} → {published['int8_top1']} %.",
        ]
    return [*lines, ""]


def _calibration(facts: Mapping[str, Any]) -> list[str]:
    calibration = facts["calibration"]
    return [
        "## Calibration",
        "",
        f"n = {calibration['n']}: {calibration['images']}. "
        f"Method: {calibration['method'] or 'not stated by the compiler'}.",
        "",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
