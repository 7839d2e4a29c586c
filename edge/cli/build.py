"""``edge build``, and each of its stages as a verb of its own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cattrs
import click

from edge.cli.display import Display, examples, table
from edge.cli.options import cluster_option, make_request, request_options, typed_arguments
from edge.cli.verb import Verb
from edge.errors import EdgeError, GateError, UsageError

if TYPE_CHECKING:
    from edge.pipeline.build import Away
    from edge.specs.request import Request


def summary(manifest: Mapping[str, Any], root: Path) -> str:
    """Return the table, from the manifest alone."""
    from edge.accuracy.table import REFERENCES
    from edge.report.wording import boxes_rows, interval, raw_output, static_line, verify_line

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
    like = REFERENCES[accuracy.get("agreement_with", "float")]
    if accuracy.get("boxes"):
        rows += boxes_rows(accuracy["boxes"], like)
    elif accuracy.get("outputs"):
        rows += [("outputs" if not place else "", raw_output(one)) for place, one in enumerate(accuracy["outputs"])]
    else:
        rows.append(
            ("agreement", f"{accuracy['agreement']:.2f} % same answer as float {like}, cosine {accuracy['cosine']:.4f}")
        )
    rows.append(("measured on", f"n = {n}, {dataset}"))
    if manifest["verify"]:
        rows.append(("verify", verify_line(manifest["verify"])))
    if manifest["static"]:
        rows.append(("static BPU", static_line(manifest["static"])))
    if manifest["placement"]:
        placement, inputs = manifest["placement"], manifest["inputs"]
        with_ = ", with the input's preprocessing" * (not inputs or any(one["image"] for one in inputs))
        rows.append(("nodes", f"{placement['bpu']} on the BPU{with_}; {placement['cpu']} on the CPU"))
    product = manifest["artifacts"][0]
    rows.append(("program" if product["role"] == "bin" else "int8 ONNX", str(root / product["path"])))
    rows.append(("size", f"{product['bytes']:,} bytes"))
    rows.append(("sha256", product["sha256"]))
    rows.append(("report", f"{root / 'report.html'}, for a browser"))
    lines = table(rows, left=(0, 1), heading=False)
    names = (name for name, _ in rows)
    return "\n".join(
        click.style(name, bold=True) + line.removeprefix(name) for name, line in zip(names, lines, strict=True)
    )


def _title(manifest: Mapping[str, Any]) -> str:
    weights = manifest["weights"]
    source = f"{weights['source']} weights" + (f" {weights['tag']}" if weights.get("tag") else "")
    source += f", precision {manifest['precision']}" * bool(manifest["precision"])
    return f"{manifest['name']} ({source}, compiler {manifest['toolchain']['kind']})"


EXAMPLES = (
    "edge build ConvNeXt_atto",
    "edge build ConvNeXt_atto --weights random --level O3",
    "edge build my.onnx --mean 127.5 --std 127.5 --color rgb --resize 256 --crop 224 --images val/ --calib train/",
    "edge build timm:resnet18.a1_in1k --images val/ --calib train/",
    "edge build --paddle ResNet50_infer/ --images val/ --calib train/",
    "edge build ConvNeXt_atto ConvNeXt_femto --cluster local:2",
)
# Stage -> what its verb's help says, and examples.
HELP = {
    "export": (
        "Write the float ONNX of MODEL.",
        "edge export ConvNeXt_atto --weights demo",
        "edge export --paddle ResNet50_infer/",
        "edge export --mindspore convnext_tiny.ckpt --network convnext_tiny",
    ),
    "simplify": (
        "Make the ONNX ready for the BPU. No pattern that the compiler fuses is lost.",
        "edge simplify ConvNeXt_atto",
    ),
    "check": ("Show which nodes the compiler puts on the BPU and which on the CPU.", "edge check ConvNeXt_atto"),
    "calibrate": (
        "Write the calibration set: images in the form that the compiler reads.",
        "edge calibrate ConvNeXt_atto --calib train/ --calib-count 100",
    ),
    "rewrite": (
        "Write parts of the graph another way, with the same answers. For recipes with the key 'rewrites'.",
        "edge rewrite ConvNeXt_atto --precision int8_channel_mean",
    ),
    "equalize": (
        "Scale channels so that the int8 steps fit each of them. For recipes with the key 'equalization'.",
        "edge equalize my.onnx --mean 127.5 --std 127.5 --calib train/ --precision int8_equalized",
    ),
    "split": (
        "Group the channels around depthwise convolutions by range, so that the int8 steps fit each group. For recipes "
        "with the key 'range_split'.",
        "edge split my.onnx --task detect --calib train/ --precision int8_split",
    ),
    "round": (
        "Round the weights to int8 so that their errors cancel out. For recipes with the key 'rounding'.",
        "edge round ConvNeXt_atto --precision int8_rounded",
    ),
    "thresholds": (
        "Choose the threshold of each activation by what it does to the network's answers. For recipes with the key "
        "'thresholds'.",
        "edge thresholds my.onnx --task detect --calib train/ --precision int8_split_thresholds",
    ),
    "render": ("Write the compiler's mapper YAML and lint it.", "edge render ConvNeXt_atto --precision int8"),
    "compile": ("Compile the .bin, the program for the board.", "edge compile ConvNeXt_atto --level O0"),
    "portable": (
        "Translate the quantized model into standard ONNX that computes the same integers.",
        "edge portable ConvNeXt_atto",
    ),
    "verify": (
        "Prove in the simulator that the .bin computes the integers of the quantized model.",
        "edge verify ConvNeXt_atto",
    ),
    "quantize": (
        "Quantize with onnxruntime instead of the vendor's compiler, for a PC; no .bin is made.",
        "edge quantize ConvNeXt_atto --compiler onnxruntime",
    ),
}


def next_steps(manifest: Mapping[str, Any], root: Path) -> str:
    """Return the commands that follow a build, each with what it is for."""
    folder = shlex.quote(str(root))
    what = {"raw": "the outputs for", "detect": "find objects in"}.get(manifest.get("task", ""), "classify")
    file, own = ("sample.npz", "sample") if manifest["inputs"] else ("photo.jpg", "image")
    rows = [
        (f"edge run {folder} {file}", f"{what} your own {own}"),
        (f"edge bundle {folder}", "gather what the board needs"),
        (f"edge board run USER@HOST {folder} {file}", "the same image on the board, over SSH"),
    ]
    if manifest["inputs"]:  # edge board run takes camera images only
        rows.pop()
    if manifest["artifacts"][0]["role"] != "bin":
        rows = rows[:1]
    activate = Path(sys.prefix) / "bin" / "activate"
    found = shutil.which("edge")
    if activate.is_file() and (found is None or Path(found).parent.resolve() != activate.parent.resolve()):
        why = "first: edge is not on PATH" if found is None else f"first: edge on PATH is another, {found}"
        inside = activate.is_relative_to(Path.cwd())
        rows.insert(0, (f"source {shlex.quote(os.path.relpath(activate) if inside else str(activate))}", why))
    lines = table(rows, left=(0, 1), heading=False)
    return "\n".join(f"{'' if number else 'next':<13}{line}" for number, line in enumerate(lines))


@click.command("build", cls=Verb, epilog=examples(EXAMPLES))
@request_options("build", several=True)
@cluster_option
@click.pass_context
def build_command(
    context: click.Context,
    /,
    *,
    model: tuple[str, ...],
    build_dir: Path,
    cluster: str | None,
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Build a checked program for the board from MODEL, one after the other from several.

    MODEL is a zoo name, a model .yaml, timm:NAME for any timm model, or your own .onnx or TorchScript file.
    --paddle and --mindspore take a model of these frameworks.

    Runs export, simplify, check, calibrate, render, compile, portable, verify and eval. What has not changed
    since the last run is reused.
    """
    from edge.api import run_build

    requests = [
        make_request(model=one, **options, arguments=typed_arguments(context, one), build_dir=build_dir)
        for one in dict.fromkeys(model or (None,))
    ]
    names = [request.spec.name for request in requests]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(
            f"several models named {twice[0]}", expected="one for each build folder", remedy="build them one at a time"
        )
    manifests: dict[str, Mapping[str, Any]] = {}
    failed: dict[str, EdgeError] = {}
    with ExitStack() as stack:
        away = None
        if cluster is not None:
            away = _elsewhere(cluster, requests, build_dir, stack, verbose=verbose)
        for request in requests:
            root = build_dir / request.spec.name
            if len(requests) > 1:
                click.echo(request.spec.name, err=True)
            try:
                with Display(verbose=verbose) as display:
                    manifests[request.spec.name] = run_build(request, root, display, away)
            except EdgeError as error:
                if len(requests) == 1:
                    raise
                failed[request.spec.name] = error
                click.echo(f"✗ {error}", err=True)
    if as_json:
        click.echo(json.dumps(manifests if len(requests) > 1 else manifests[names[0]], indent=2))
    else:
        for name, manifest in manifests.items():
            click.echo(f"\n{summary(manifest, build_dir / name)}\n\n{next_steps(manifest, build_dir / name)}")
    if failed:
        raise GateError(
            f"{', '.join(failed)}: not built, for the reason above",
            expected="every model built",
            remedy=next(iter(failed.values())).remedy,
        )


def _elsewhere(cluster: str, requests: Sequence[Request], build_dir: Path, stack: ExitStack, *, verbose: bool) -> Away:
    from edge.cluster import open_cluster
    from edge.cluster.builds import Elsewhere
    from edge.pipeline.choices import choose_compiler

    display = stack.enter_context(Display(verbose=verbose))
    compiler = choose_compiler(requests[0], display)
    workers = stack.enter_context(open_cluster(cluster, display, compiler=compiler, install=requests[0].install))
    elsewhere = Elsewhere(workers)
    elsewhere.ask(requests, build_dir)
    return elsewhere.away


def _run_stage(stage: str, request: Request, build_dir: Path, *, as_json: bool, verbose: bool) -> None:
    from edge.folder.workspace import Workspace
    from edge.pipeline.build import Build
    from edge.pipeline.stages import PORTABLE_STAGES, REFINED, STAGES
    from edge.sources.options import stage_command

    display, root = Display(verbose=verbose), build_dir / request.spec.name
    with display, Workspace(root, display, source=request.source, replace=request.replace) as workspace:
        row = next(row for row in (*STAGES, *PORTABLE_STAGES) if row.name == stage)
        build = Build(request, workspace, display)
        done = build.stage(row)
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
    order = PORTABLE_STAGES if request.compiler == "onnxruntime" else STAGES
    rows = [row.name for row in order if row.name == stage or row not in REFINED or row.when(build)]
    following = rows[rows.index(stage) + 1] if stage in rows else "eval"
    where = () if build_dir == Path("build") else ("--build-dir", str(build_dir))
    click.echo(f"next: {stage_command(following, request.arguments)} {shlex.join(where)}".rstrip())


def __getattr__(name: str) -> click.Command:
    """Return the verb of a stage, such as ``export_command``."""
    stage = name.removesuffix("_command")
    if stage not in HELP or stage == name:
        raise AttributeError(name)
    text, *lines = HELP[stage]

    @click.command(
        stage,
        cls=Verb,
        help=text if stage == "export" else f"{text} Runs the stages before it as needed.",
        epilog=examples(lines),
    )
    @request_options(stage)
    @click.pass_context
    def command(context: click.Context, /, *, build_dir: Path, as_json: bool, verbose: bool, **options: Any) -> None:
        request = make_request(**options, arguments=typed_arguments(context), build_dir=build_dir)
        _run_stage(stage, request, build_dir, as_json=as_json, verbose=verbose)

    return command
