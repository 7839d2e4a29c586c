"""``edge build``, and each of its stages as a verb of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cattrs
import click

from edge.cli.display import Display, examples, table
from edge.cli.options import make_request, request_options, typed_arguments

if TYPE_CHECKING:
    from edge.specs.request import Request


def summary(manifest: Mapping[str, Any], root: Path) -> str:
    """Return the table, from the manifest alone."""
    from edge.report.wording import interval, static_line, verify_line

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
    rows.append(("agreement", f"{accuracy['agreement']:.2f} % same answer as float, cosine {accuracy['cosine']:.4f}"))
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
    lines = table(rows, left=(0, 1), heading=False)
    names = (name for name, _ in rows)
    return "\n".join(
        click.style(name, bold=True) + line.removeprefix(name) for name, line in zip(names, lines, strict=True)
    )


def _title(manifest: Mapping[str, Any]) -> str:
    weights = manifest["weights"]
    source = f"{weights['source']} weights" + (f" {weights['tag']}" if weights.get("tag") else "")
    return f"{manifest['name']} ({source}, precision {manifest['precision']}, compiler {manifest['toolchain']['kind']})"


EXAMPLES = {
    "build": (
        "edge build ConvNeXt_atto",
        "edge build ConvNeXt_atto --weights random --level O3",
        "edge build my.onnx --mean 127.5 --std 127.5 --color rgb --resize 256 --crop 224 --images val/ --calib train/",
        "edge build timm:resnet18.a1_in1k --images val/ --calib train/",
        "edge build --paddle ResNet50_infer/ --images val/ --calib train/",
    ),
    "export": (
        "edge export ConvNeXt_atto --weights demo",
        "edge export --paddle ResNet50_infer/",
        "edge export --mindspore convnext_tiny.ckpt --network convnext_tiny",
    ),
    "simplify": ("edge simplify ConvNeXt_atto",),
    "check": ("edge check ConvNeXt_atto",),
    "calibrate": ("edge calibrate ConvNeXt_atto --calib train/ --calib-count 100",),
    "rewrite": ("edge rewrite ConvNeXt_atto --precision int8_channel_mean",),
    "equalize": ("edge equalize my.onnx --calib train/ --precision int8_equalized",),
    "round": ("edge round ConvNeXt_atto --precision int8_rounded",),
    "render": ("edge render ConvNeXt_atto --precision int8",),
    "compile": ("edge compile ConvNeXt_atto --level O0",),
    "portable": ("edge portable ConvNeXt_atto",),
    "verify": ("edge verify ConvNeXt_atto",),
    "quantize": ("edge quantize ConvNeXt_atto --compiler onnxruntime",),
}

HELP = {
    "export": "Write the float ONNX.",
    "simplify": "Make the ONNX ready for the BPU, losing no fusion of the compiler's.",
    "check": "Show which nodes the compiler puts on the BPU and which on the CPU.",
    "calibrate": "Write the calibration set as the compiler reads it.",
    "rewrite": "Write parts of the graph another way, with the same answers (recipes with 'rewrites').",
    "equalize": "Scale channels so that int8 steps fit each (recipes with 'equalization').",
    "round": "Put the weights on int8 steps so that their errors cancel out (recipes with 'rounding').",
    "render": "Write and lint the mapper YAML.",
    "compile": "Compile the .bin.",
    "portable": "Translate the quantized model into standard ONNX with the same integers.",
    "verify": "Prove in the simulator that the .bin gives the integers of the quantized model.",
    "quantize": "Quantize with onnxruntime instead of the vendor's compiler (--compiler onnxruntime).",
}


@click.command("build", epilog=examples(EXAMPLES["build"]))
@request_options
@click.pass_context
def build_command(context: click.Context, /, *, build_dir: Path, as_json: bool, verbose: bool, **options: Any) -> None:
    """Build a checked program for the board from MODEL.

    MODEL is a zoo name, a model .yaml, timm:NAME for any timm model, or your own .onnx or TorchScript file.
    --paddle and --mindspore name a model of these frameworks instead.

    Runs export, simplify, check, calibrate, render, compile, portable, verify and eval. What has not changed
    is reused.
    """
    from edge.api import run_build

    request = make_request(**options, arguments=typed_arguments(context), build_dir=build_dir)
    root = build_dir / request.spec.name
    with Display(verbose=verbose) as display:
        manifest = run_build(request, root, display)
    click.echo(json.dumps(manifest, indent=2) if as_json else "\n" + summary(manifest, root))


def _run_stage(stage: str, request: Request, build_dir: Path, *, as_json: bool, verbose: bool) -> None:
    from edge.folder.workspace import Workspace
    from edge.pipeline.build import Build
    from edge.pipeline.stages import PORTABLE_STAGES, STAGES

    display, root = Display(verbose=verbose), build_dir / request.spec.name
    with display, Workspace(root, display, source=request.source, replace=request.replace) as workspace:
        row = next(row for row in (*STAGES, *PORTABLE_STAGES) if row.name == stage)
        done = Build(request, workspace, display).stage(row)
    files = [{"path": str(done.path(file.path)), "bytes": file.bytes, "sha256": file.sha256} for file in done.files]
    if as_json:
        result = {"stage": stage, "seconds": done.seconds, "cached": done.cached, "files": files}
        click.echo(json.dumps({**result, "result": cattrs.unstructure(done.result)}, indent=2))
        return
    shown = files if len(files) <= 12 else files[:4]
    for file in shown:
        click.echo(f"{file['path']}  {file['bytes']:,} bytes")
    if len(shown) < len(files):
        click.echo(f"… and {len(files) - len(shown)} more in {done.dir}")


def _stage_command(stage: str) -> click.Command:
    @click.command(stage, help=f"{HELP[stage]} Runs the stages before it as needed.", epilog=examples(EXAMPLES[stage]))
    @request_options
    @click.pass_context
    def command(context: click.Context, /, *, build_dir: Path, as_json: bool, verbose: bool, **options: Any) -> None:
        request = make_request(**options, arguments=typed_arguments(context), build_dir=build_dir)
        _run_stage(stage, request, build_dir, as_json=as_json, verbose=verbose)

    return command


export_command = _stage_command("export")
simplify_command = _stage_command("simplify")
check_command = _stage_command("check")
calibrate_command = _stage_command("calibrate")
rewrite_command = _stage_command("rewrite")
equalize_command = _stage_command("equalize")
round_command = _stage_command("round")
render_command = _stage_command("render")
compile_command = _stage_command("compile")
portable_command = _stage_command("portable")
verify_command = _stage_command("verify")
quantize_command = _stage_command("quantize")
