"""Facts as short pieces of text, shared by the terminal, the Markdown and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.errors import counted
from edge.measure.statistics import p_value
from edge.report.contents import Accuracy, Interval, JudgedChange
from edge.specs import Published

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"


def interval(score: Mapping[str, Any], key: str) -> str:
    """Return the 95 % interval of ``top1`` or ``top5`` of a manifest's score as text."""
    return bounds(score[f"{key}_interval"])


def bounds(values: Interval) -> str:
    """Return an interval in percent as text."""
    return f"[{values[0]:.1f}, {values[1]:.1f}]"


def fixed(value: float | None, unit: str = "", *, digits: int) -> str:
    """Return a number with so many decimals, and its unit; a dash for None."""
    return MISSING if value is None else f"{value:.{digits}f}{unit}"


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, a real minus, and no sign at zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def judged(change: JudgedChange) -> str:
    """Say in a few words what a change is."""
    if change.judgement == "none":
        return "no answer changed"
    if change.judgement == "untested" or change.p is None:
        return "not tested in pairs"
    words = {"loss": "a loss", "gain": "a gain", "noise": "within noise"}
    return f"{words[change.judgement]}, {p_value(change.p)}"


def versions(tools: Mapping[str, str]) -> str:
    """Return tools with their versions on one line."""
    return ", ".join(f"{name} {version}" for name, version in sorted(tools.items()))


def code(text: str) -> str:
    """Return text as it is typed, for Markdown."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def plain(text: str) -> str:
    """Return text of others with what Markdown or HTML would take for markup made harmless."""
    for mark in ("\\", "<", "*", "[", "`"):
        text = text.replace(mark, f"\\{mark}")
    return text


def cell(value: object) -> str:
    """Return a value for a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def prepared(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what was changed of the float network before the compiler read it; empty for most."""
    lines = []
    if changed := sum(len(nodes) for nodes in (manifest.get("attention") or {}).values()):
        lines.append(f"attention laid out for the BPU: {counted(changed, 'node')} written another way")
    if pools := manifest.get("pools"):
        lines.append(f"average pools exact at the edge: {counted(len(pools), 'node')} written another way")
    if patches := manifest.get("patches"):
        lines.append(f"patches cut in two steps: {counted(len(patches), 'convolution')} written another way")
    for name, nodes in ((manifest.get("rewrites") or {}).get("nodes", {})).items():
        lines.append(f"{name}: {counted(len(nodes), 'node')} written another way")
    if equalization := manifest.get("equalization"):
        lines.append(
            f"channels of {counted(len(equalization['pairs']), 'pair')} of layers equalized "
            f"on {counted(equalization['images'], 'calibration image')}"
        )
    if split := manifest.get("range_split"):
        lines.append(
            f"channels at {counted(len(split['places']), 'place')} grouped by range "
            f"on {counted(split['images'], 'calibration image')}"
        )
    if rounding := manifest.get("rounding"):
        lines.append(
            f"weights of {counted(rounding['layers'], 'layer')} rounded on "
            f"{counted(rounding['images'], 'calibration image')}: "
            f"{100 * rounding['error_kept']:.0f} % of the nearest steps' error is left"
        )
    if thresholds := manifest.get("thresholds"):
        lines.append(
            f"thresholds of {thresholds['changed']} of {counted(thresholds['tensors'], 'activation')} chosen by the "
            f"outputs on {counted(thresholds['images'], 'calibration image')}"
            + (f"; {thresholds['int16']} at 16 bits" if thresholds.get("int16") else "")
        )
    return tuple(lines)


def size(count: int) -> str:
    """Return a number of bytes for people: ``4.33 MB``."""
    if count < 1000:
        return f"{count} B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if count < scale * 999.5:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e9:.3g} GB"


def static_line(static: Mapping[str, Any]) -> str:
    """Return the compiler's static figures on one line."""
    return (
        f"{static['latency_us']:.1f} us, {static['fps']:.2f} FPS, {static['ddr_bytes']:,} DDR bytes a frame "
        f"({static['march']}, {static['optimize_level']})"
    )


def raw_output(output: Mapping[str, Any]) -> str:
    """Return on one line how far a raw output is from float's, from the manifest's record."""
    shape = "x".join(map(str, output["shape"]))
    if output["snr_db"] is None:
        return f"{output['name']} {shape}: bit for bit float's"
    return (
        f"{output['name']} {shape}: signal to noise {output['snr_db']:.1f} dB, cosine {output['cosine']:.4f}, "
        f"largest error {output['largest_error']:.3g} of {output['low']:.3g} to {output['high']:.3g}"
    )


def boxes_rows(steps: Mapping[str, Any], like: str) -> list[tuple[str, str]]:
    """Return name and text of a detector's figures, from the manifest's record of its steps.

    Args:
        like: how float saw the images whose boxes are the objects of the agreement.
    """
    first, last = next(iter(steps.values())), list(steps.values())[-1]
    rows = []
    if first["ap"] and last["ap"]:
        for key, title in (("ap", "AP"), ("ap50", "AP50")):
            rows.append((title, f"float {first['ap'][key]:.1f} → quantized {last['ap'][key]:.1f}"))
    if last["self_ap"] is None:
        return [*rows, ("agreement", f"float {like} sees nothing on any image")]
    text = f"AP {last['self_ap']:.1f} with the boxes of float {like} as objects"
    return [*rows, ("agreement", f"{text}, {last['lost']} of them lost, {last['gained']} others gained")]


def verify_line(verify: Mapping[str, Any]) -> str:
    """Return on one line whether the compiled program is what was measured."""
    if verify["bit_exact"] is None:
        return f"not verified: {verify['why_not']}"
    part = "" if verify["calls"] == 1 else f" (the first of {verify['calls']} BPU parts)"
    return (
        f"the compiled program{part} equals the quantized model bit for bit: {verify['frames']} frames of "
        f"{verify['integers']:,} integers" + ("; so does the portable model" if verify["portable_exact"] else "")
    )


def published_line(model: str, published: Published | None, weights: str) -> str:
    """Return what others published of a model's accuracy, and what it may be compared with; empty if nothing."""
    if published is None:
        return ""
    figures = {"Top-1": published.float_top1, "Top-5": published.float_top5, "Top-1 int8": published.int8_top1}
    listed = ", ".join(f"{name} {value:g} %" for name, value in figures.items() if value is not None)
    if not listed:
        return ""
    line = f"Published for {model}: {listed} (ImageNet-1k; {published.source})."
    if weights in ("demo", "random"):
        return f"{line} Not comparable with the {weights} weights here."
    if published.accuracy_of and weights == "timm":
        return f"{line} Not comparable with the weights here: those are figures of {published.accuracy_of}."
    return line


def verdict(manifest: Mapping[str, Any], accuracy: Accuracy) -> str:
    """Return the line."""
    return " ".join(filter(None, (_what(manifest), _accuracy(manifest, accuracy), _speed(manifest))))


def _what(manifest: Mapping[str, Any]) -> str:
    source = manifest["weights"]["source"]
    weights = f", {source} weights" if source in ("demo", "random") else ""
    if manifest["toolchain"]["kind"] == "onnxruntime":
        return f"Quantized by onnxruntime{weights}, an estimate of what the vendor's compiler gives."
    return f"Compiled for the RDK X5, precision {manifest['precision']}{weights}."


def _accuracy(manifest: Mapping[str, Any], accuracy: Accuracy) -> str:
    if manifest["weights"]["source"] == "random":
        return ""
    if accuracy.verdict:
        return accuracy.verdict.rstrip(".") + "."
    reference, quantized = accuracy.step("float"), accuracy.step(accuracy.quantized)
    if reference is None or quantized is None:
        return ""
    if reference.top1 is None or quantized.top1 is None:
        like = quantized.agreement_with
        return f"It gives the same answer as {like} on {quantized.agreement:.1f} % of {counted(quantized.n, 'image')}."
    return (
        f"Top-1 goes from {reference.top1:.1f} % to {quantized.top1:.1f} % "
        f"({signed(quantized.top1 - reference.top1, 1)} points on {counted(quantized.n, 'image')})."
    )


def _speed(manifest: Mapping[str, Any]) -> str:
    static = manifest["static"]
    if static is None:
        return ""
    level = "" if static["optimize_level"] == "O3" else f" at {static['optimize_level']}"
    return (
        f"The compiler gives {static['latency_us'] / 1000:.2f} ms a frame on the BPU{level}, {static['fps']:.0f} FPS."
    )
