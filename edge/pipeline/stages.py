"""The stages of a build as rows, in their order; no other module knows this order.

::

    export → simplify → check → calibrate → rewrite → equalize → split → round → thresholds → render → compile
    → portable → verify → eval
    export → simplify → calibrate → quantize → eval                  with ``--compiler onnxruntime``

``rewrite``, ``equalize``, ``split``, ``round`` and ``thresholds`` run only if the recipe asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cattrs
from attrs import evolve

from edge.accuracy import Evaluation, MeasuredOn, choose, evaluate, find_steps
from edge.accuracy.table import REFERENCES, boxes_line, raw_line
from edge.compiler.footprint import Purpose, extent_of, require
from edge.compiler.logs import cpu_inside
from edge.compiler.node_names import SOFTMAX_RECIPE, left_inside
from edge.compiler.render import RenderResult, render, template_sha256
from edge.compiler.run import CheckResult, CompileResult, checker, makertbin
from edge.errors import UsageError, counted
from edge.files import sha256_of
from edge.folder.workspace import content_key
from edge.images import sample
from edge.images.calibrate import CalibrationResult, calibrate
from edge.images.samples import open_samples
from edge.measure.labels import at_chance
from edge.pipeline.choices import calibration_samples, choose_framework
from edge.pipeline.inputs import Inputs, Keyed, given, versions
from edge.pipeline.stage import Inside, Stage, asks_for, with_compiler
from edge.pipeline.verify import FRAMES, VerifyResult, candidates, verify
from edge.prepare.channel_mean import RewriteResult, rewrite
from edge.prepare.equalize import EqualizeResult, equalize
from edge.prepare.range_split import SplitResult, range_split
from edge.prepare.rounding import RoundResult, round_weights
from edge.prepare.simplify import SimplifyResult, simplify
from edge.refine.thresholds import ThresholdsResult, learn_thresholds
from edge.runtime.machine import machine
from edge.simulate.hbdk import why_unusable
from edge.simulate.portable.quantize import PortableResult, quantize
from edge.simulate.portable.translate import TranslateResult, translate_or_say
from edge.sources.stage import ExportResult, export
from edge.specs import Compiler
from edge.toolchain import managed
from edge.toolchain.managed import FRAMEWORKS
from edge.toolchain.memory import available, total

if TYPE_CHECKING:
    from edge.pipeline.build import Build

WORKING_DIR = "model_output"  # the vendor's default, for a compile by hand beside the YAML


def require_memory(build: Build, purpose: Purpose, onnx: Path, images: int = 0) -> None:
    """Refuse to start the compiler if it would be killed for lack of memory."""
    free = available()
    if not build.request.any_memory and free is not None:
        name = build.stage(EXPORT).result.name
        require(extent_of(onnx), purpose, free=free, name=name, images=images)


def _export_inputs(build: Build) -> Inputs:
    build.listener.begin("export")  # choosing may download
    spec, weights, framework = build.request.spec, build.weights, build.weights.framework
    toolchain = build.toolchain if weights.needs_toolchain else None
    identity = toolchain.identity if toolchain else ""
    if framework is not None:
        # Known without the environment, so an earlier export is reused even if it is not installed.
        identity = managed.place(FRAMEWORKS[framework]).digest
    key = {
        "source": weights.identity(),  # includes the worker's code
        "crop": spec.preprocess.crop,
        "layout": spec.preprocess.layout,
        "output": spec.output,
        "task": spec.task,
        "detector": cattrs.unstructure(spec.detector),
        "featuremap": spec.featuremap,
        # The noise on which ONNX and framework are compared covers what pixels become.
        "values": (spec.preprocess.mean, spec.preprocess.std),
        "labels": _identity_of(spec.labels),
        "toolchain": identity,
        **versions("onnx", "onnxruntime"),
    }

    def arguments() -> Mapping[str, Any]:
        environment = choose_framework(framework, build.request, build.listener) if framework else None
        return {"resolved": weights, "spec": spec, "toolchain": toolchain, "framework": environment}

    return Inputs(key, arguments)


def _identity_of(labels: str | None) -> str | None:
    """Return the cache key of a network's labels: for a file, its content too."""
    path = Path(labels or "")
    return f"{labels} {sha256_of(path)}" if path.is_file() else labels


def _export_note(_build: Build, result: ExportResult) -> str:
    text = f"{result.onnx}, {result.parameters / 1e6:.2f} M parameters"
    if result.max_error is None:
        return text
    environment = FRAMEWORKS.get(result.weights.source)
    exporter = environment.title if environment else "torch"
    return f"{text}, within {result.max_error:.1g} of {exporter}'s {'scores' if result.classes else 'outputs'}"


EXPORT = Stage(
    "export",
    work=export,
    result=ExportResult,
    needs=(),
    inputs=_export_inputs,
    note=_export_note,
    warnings=lambda _, result: iter(result.notes),
)


def _simplify_inputs(build: Build) -> Inputs:
    source = build.stage(EXPORT)
    model, name = source.file(source.result.onnx), f"{source.result.name}_bpu"
    return given("onnx", "onnxsim", model=model, name=name, scores=build.request.spec.task == "classify")


def _simplify_note(build: Build, result: SimplifyResult) -> str:
    return (
        f"{result.nodes_before} → {counted(result.nodes_after, 'node')}, max abs error {result.max_abs_error:.2g}, "
        + result.form
        + (", average pools exact at the edge" if result.pools else "")
        + (", attention laid out for the BPU" if result.attention else "")
        + (", patches in two steps" if result.patches else "")
        + (f", scores of 1x{build.stage(EXPORT).result.classes}x1x1" if result.score_map else "")
    )


SIMPLIFY = Stage(
    "simplify", work=simplify, result=SimplifyResult, needs=(EXPORT,), inputs=_simplify_inputs, note=_simplify_note
)


def _check_inputs(build: Build) -> Inputs:
    graph, toolchain = build.stage(SIMPLIFY), build.compiler()
    onnx = graph.file(graph.result.onnx)

    def arguments() -> Mapping[str, Any]:
        require_memory(build, "check", onnx.path)
        return {"toolchain": toolchain, "onnx": onnx.path, "timeout": build.request.timeout}

    return Inputs({"onnx": onnx.sha256, "toolchain": toolchain.identity}, arguments)


def _left_inside(build: Build, result: CheckResult) -> tuple[str, ...]:
    """Return the CPU nodes inside the network that the recipe does not move to the BPU."""
    rows = [(row.name, row.type) for row in cpu_inside(result.nodes)]
    return left_inside(build.request.precision, rows)


def _check_note(build: Build, result: CheckResult) -> str:
    inside = _left_inside(build, result)
    moved = len(result.cpu_inside) - len(inside)
    by_recipe = f", {moved} of them moved there by the recipe" if moved else ""
    text = f"{counted(result.bpu + moved, 'node')} on the BPU{by_recipe}, {result.cpu - moved} on the CPU"
    inputs = build.stage(EXPORT).result.inputs
    images = sum(one.image for one in inputs) if inputs else 1
    return (
        text
        + f"; the compile adds {images}, the input's preprocessing" * (images > 0)
        + (f"; INSIDE the network: {', '.join(inside[:3])}" if inside else "")
    )


def _check_warnings(build: Build, result: CheckResult) -> Iterator[str]:
    inside = _left_inside(build, result)
    if any(row.type == "Softmax" for row in result.nodes if row.name in inside):
        yield (
            f"Softmax inside the network runs on the CPU and splits it; --precision {SOFTMAX_RECIPE} "
            "moves it to the BPU"
        )


CHECK = Stage(
    "check",
    work=checker,
    result=CheckResult,
    needs=(SIMPLIFY, EXPORT),
    inputs=_check_inputs,
    note=_check_note,
    when=with_compiler,
    warnings=_check_warnings,
)


def _calibrate_inputs(build: Build) -> Inputs:
    request, chosen, inputs = build.request, build.calibration_set, build.stage(EXPORT).result.inputs
    preprocess = request.spec.preprocess
    if inputs:
        samples = sample(open_samples(calibration_samples(request, inputs)), chosen.n, chosen.seed)
        return given(
            "numpy", "opencv", images=samples, preprocess=preprocess, inputs=inputs, n=chosen.n, seed=chosen.seed
        )
    if request.calibration is None and build.stage(EXPORT).result.weights.source not in ("demo", "random"):
        build.listener.warn(
            "calibrating on the project's demo images, which this network was not trained for; "
            "give --calib DIR with images like those of your camera"
        )
    images = build.calibration_images
    return given("numpy", "opencv", images=images, preprocess=preprocess, n=chosen.n, seed=chosen.seed)


CALIBRATE = Stage(
    "calibrate",
    work=calibrate,
    result=CalibrationResult,
    needs=(EXPORT,),
    inputs=_calibrate_inputs,
    note=lambda _, r: r.source + (f", {len(r.unreadable)} left out" if r.unreadable else ""),
)


def _of_recipe(build: Build, key: str, lacks: str, recipe: str) -> Any:
    """Return a key of the recipe; a verb may ask for a stage whose key is missing."""
    asked = getattr(build.request.precision, key)
    if not asked:
        raise UsageError(
            f"recipe {build.request.precision.name} {lacks}",
            expected=f"a recipe with the key '{key}'",
            remedy=f"--precision {recipe}",
        )
    return asked


def _rewrite_inputs(build: Build) -> Inputs:
    rewrites = _of_recipe(build, "rewrites", "rewrites nothing", "int8_channel_mean")
    name = f"{build.stage(EXPORT).result.name}_bpu_rewritten"
    return given("onnx", model=build.onnx_after(SIMPLIFY), rewrites=rewrites, name=name)


REWRITE = Stage(
    "rewrite",
    work=rewrite,
    result=RewriteResult,
    needs=(SIMPLIFY, EXPORT),
    inputs=_rewrite_inputs,
    note=lambda _, r: (
        ", ".join(f"{name} at {counted(len(nodes), 'node')}" for name, nodes in r.nodes.items())
        + f", max abs error {r.max_abs_error:.2g}"
    ),
    when=asks_for("rewrites"),
)


def _refined(build: Build, after: Stage[Any], ending: str, *, key: str, lacks: str, **further: Any) -> Inputs:
    """Return the inputs of equalize, split and round: the ONNX so far, the calibration set, the recipe's key."""
    return given(
        "numpy",
        "onnx",
        "onnxruntime",
        model=build.onnx_after(after),
        calibration=Keyed(build.calibration_files(), build.stage(CALIBRATE).result.sha256),
        preprocess=build.request.spec.preprocess,
        name=f"{build.stage(EXPORT).result.name}_bpu_{ending}",
        **{key: _of_recipe(build, key, lacks, f"int8_{ending}"), **further},
    )


EQUALIZE = Stage(
    "equalize",
    work=equalize,
    result=EqualizeResult,
    needs=(CALIBRATE, REWRITE, SIMPLIFY, EXPORT),
    inputs=lambda build: _refined(build, REWRITE, "equalized", key="equalization", lacks="does not equalize channels"),
    note=lambda _, r: f"channels of {counted(len(r.pairs), 'pair')} scaled, max abs error {r.max_abs_error:.2g}",
    when=asks_for("equalization"),
)


def _split_note(_build: Build, result: SplitResult) -> str:
    places, groups = counted(len(result.places), "place"), sum(len(place.groups) for place in result.places)
    return f"channels of {places} in {groups} groups by range, max abs error {result.max_abs_error:.2g}"


SPLIT = Stage(
    "split",
    work=range_split,
    result=SplitResult,
    needs=(CALIBRATE, EQUALIZE, REWRITE, SIMPLIFY, EXPORT),
    inputs=lambda build: _refined(build, EQUALIZE, "split", key="range_split", lacks="does not split channels"),
    note=_split_note,
    when=asks_for("range_split"),
)

ROUND = Stage(
    "round",
    work=round_weights,
    result=RoundResult,
    needs=(CALIBRATE, SPLIT, EQUALIZE, REWRITE, SIMPLIFY, EXPORT),
    inputs=lambda build: _refined(
        build, SPLIT, "rounded", key="rounding", lacks="does not round weights", seed=build.request.seed
    ),
    note=lambda _, r: (
        f"weights of {counted(len(r.layers), 'layer')}, {100 * r.error_kept:.0f} % of the nearest steps' error"
        + (f"; {len(r.left)} left as they are" if r.left else "")
    ),
    when=asks_for("rounding"),
)


def _data_dir(build: Build) -> str:
    """Return ``cal_data_dir`` as the mapper YAML names it."""
    folder, inputs = build.stage(CALIBRATE).result.directory, build.stage(EXPORT).result.inputs
    return ";".join([f"./{folder}/{place}_f32" for place in range(len(inputs))] or [f"./{folder}"])


def _thresholds_inputs(build: Build) -> Inputs:
    _of_recipe(build, "thresholds", "leaves thresholds to the compiler", "int8_thresholds")
    exported, request = build.stage(EXPORT).result, build.request
    if exported.inputs:
        raise UsageError(
            "thresholds of a network that takes more than one camera image, or something else",
            expected="one image input",
            remedy="use a recipe without the key 'thresholds'",
        )
    inputs = given(
        *("numpy", "opencv", "onnx", "onnxruntime"),
        also={"template": template_sha256(), "calibration": build.stage(CALIBRATE).result.sha256},
        toolchain=build.compiler(),
        model=build.onnx_after(ROUND),
        images=build.calibration_images,
        spec=request.spec,
        # The level changes nothing before the last step of the compiler.
        precision=evolve(request.precision, compiler=Compiler()),
        outputs=exported.outputs,
        detector=exported.detector,
        scores=exported.scores,
        cal_data_dir=_data_dir(build),
        working_dir=WORKING_DIR,
        prefix=build.prefix,
        name=f"{exported.name}_bpu_thresholds",
        timeout=Keyed(request.timeout),
    )

    def arguments() -> Mapping[str, Any]:
        quick = Compiler("O0", request.precision.compiler.compile_mode, request.precision.compiler.jobs)
        plain = evolve(request, precision=evolve(request.precision, thresholds=None, compiler=quick))
        made = build.of(plain, Inside(build.listener)).stage(COMPILE)
        require_memory(build, "compile", build.onnx_after(ROUND).path)  # that one may have been made before
        return {
            **inputs.arguments(),
            "calibrated": made.path(f"{build.prefix}_calibrated_model.onnx"),
            "method": made.result.calibration_method,
            "key": content_key("thresholds", inputs.key),
        }

    return Inputs(inputs.key, arguments)


THRESHOLDS = Stage(
    "thresholds",
    work=learn_thresholds,
    result=ThresholdsResult,
    needs=(CALIBRATE, ROUND, SPLIT, EQUALIZE, REWRITE, SIMPLIFY, EXPORT),
    inputs=_thresholds_inputs,
    note=lambda _, r: (
        f"{r.changed} of {r.tensors} changed{f', {r.int16} with 16 bits' if r.int16 else ''}; outputs "
        f"{100 * (1 - r.after / r.before) if r.before else 0:.0f} % closer "
        f"to float's on {counted(r.kept_back, 'image')} kept back"
    ),
    when=asks_for("thresholds"),
)

# Stages between the BPU-ready ONNX and the compiler, the last one first.
REFINED: tuple[Stage[Any], ...] = (THRESHOLDS, ROUND, SPLIT, EQUALIZE, REWRITE)


def _render_inputs(build: Build) -> Inputs:
    request, calibration = build.request, build.stage(CALIBRATE)
    recipe, exported, onnx = request.precision, build.stage(EXPORT), build.shipped
    network = build.onnx_after(ROUND)  # without the steps, which are no operators
    known = recipe.evidence.float_sha256 if recipe.evidence else None
    if known is not None and known != exported.sha256(exported.result.onnx):
        build.listener.warn(
            f"precision recipe {recipe.name} was searched for other weights: its figures do not hold for these; "
            f"run edge tune again, or build with --precision {request.spec.precision}"
        )
    folder, inputs = calibration.result.directory, exported.result.inputs
    sizes = [(f.path.removeprefix(f"{folder}/"), f.bytes) for f in calibration.files if f.path.startswith(folder)]
    return given(
        also={"template": template_sha256()},
        inputs=Keyed(inputs, cattrs.unstructure(inputs) or None),
        spec=request.spec,
        precision=recipe,
        model=network,
        calibration_files=Keyed(sizes, calibration.result.sha256),
        prefix=build.prefix,
        onnx_model=f"./{onnx.name}",
        cal_data_dir=_data_dir(build),
        working_dir=f"./{WORKING_DIR}",
    )


RENDER = Stage(
    "render",
    work=render,
    result=RenderResult,
    needs=(CALIBRATE, *REFINED, SIMPLIFY, EXPORT),
    inputs=_render_inputs,
    note=lambda build, r: f"{r.yaml}, precision {build.request.precision.name}",
    when=with_compiler,
)


def _compile_inputs(build: Build) -> Inputs:
    calibration, made, toolchain = build.stage(CALIBRATE), build.stage(RENDER), build.compiler()
    onnx, text, folder = build.shipped, made.file(made.result.yaml), calibration.result.directory
    key = {
        "yaml": text.sha256,
        "onnx": onnx.sha256,
        "calibration": calibration.result.sha256,
        "toolchain": toolchain.identity,
        # The hashes above include these; edge models --page reads them.
        "level": build.request.precision.compiler.optimize_level,
        "recipe": build.request.precision.name,
        "weights": build.stage(EXPORT).result.weights.source,
    }

    def arguments() -> Mapping[str, Any]:
        require_memory(build, "compile", onnx.path, calibration.result.n)
        memory = total()
        return {
            "toolchain": toolchain,
            "yaml": text.path,
            "files": {onnx.name: onnx.path, folder: calibration.path(folder)},
            "prefix": build.prefix,
            "working_dir": WORKING_DIR,
            "key": content_key("compile", key),
            "timeout": build.request.timeout,
            "on_noise": build.request.precision.thresholds is not None,
            "machine": machine() + (f", {memory / 2**30:.1f} GiB of memory" if memory else ""),
        }

    return Inputs(key, arguments)


COMPILE = Stage(
    "compile",
    work=makertbin,
    result=CompileResult,
    needs=(RENDER, CALIBRATE, *REFINED, SIMPLIFY, EXPORT),
    inputs=_compile_inputs,
    note=lambda _, r: r.bin + (f", {r.static.latency_us:.1f} us static" if r.static else ""),
    when=with_compiler,
)


def _quantize_inputs(build: Build) -> Inputs:
    if build.stage(EXPORT).result.inputs:
        raise UsageError(
            "--compiler onnxruntime with a network that takes more than one camera image, or something else",
            expected="the vendor's compiler",
            remedy="edge toolchain install, then --compiler managed",
        )
    calibration = build.stage(CALIBRATE)
    folder = calibration.path(calibration.result.directory)
    return given(
        "numpy",
        "onnx",
        "onnxruntime",
        model=build.onnx_after(SIMPLIFY),
        calibration=Keyed(folder, calibration.result.sha256),
        preprocess=build.request.spec.preprocess,
        prefix=build.prefix,
    )


QUANTIZE = Stage(
    "quantize",
    work=quantize,
    result=PortableResult,
    needs=(SIMPLIFY, CALIBRATE, EXPORT),
    inputs=_quantize_inputs,
    note=lambda _, r: f"{r.onnx}, by onnxruntime",
    when=lambda build: not with_compiler(build),
)

PORTABLE = Stage(
    "portable",
    work=translate_or_say,
    result=TranslateResult,
    needs=(COMPILE, EXPORT),
    inputs=lambda build: given("numpy", "onnx", quantized=build.quantized, prefix=build.prefix),
    note=lambda _, r: f"{r.onnx}, {counted(r.nodes, 'operator')} translated" if r.onnx else "none",
    when=with_compiler,
    warnings=lambda _, r: iter([f"no portable model: {r.why_not}"] if r.why_not else []),
)


def _verify_inputs(build: Build) -> Inputs:
    compiled, portable, toolchain = build.stage(COMPILE), build.stage(PORTABLE), build.compiler()
    inputs = build.stage(EXPORT).result.inputs
    translated = portable.result.onnx
    return given(
        "numpy",
        "onnxruntime",
        "opencv",
        also={"frames": FRAMES, "simulator": why_unusable(toolchain)},
        toolchain=toolchain,
        program=compiled.file(compiled.result.bin),
        quantized=build.quantized,
        portable=portable.file(translated) if translated else None,
        images=candidates(build.measured_on[0], rendered=not inputs),
        preprocess=build.request.spec.preprocess,
        classes=build.request.spec.task == "classify",
        inputs=Keyed(inputs, cattrs.unstructure(inputs) or None),
        prefix=build.prefix,
    )


def _verify_note(_build: Build, result: VerifyResult) -> str:
    if result.why_not:
        return "not verified"
    part = f", first of its {result.calls} BPU parts" if result.calls > 1 else ""
    return f"program equals quantized model bit for bit on {counted(result.frames, 'frame')}{part}"


def _verify_warnings(_build: Build, result: VerifyResult) -> Iterator[str]:
    if result.why_not:
        yield f"NOT VERIFIED against the compiled program: {result.why_not}"


VERIFY = Stage(
    "verify",
    work=verify,
    result=VerifyResult,
    needs=(COMPILE, PORTABLE, EXPORT),
    inputs=_verify_inputs,
    note=_verify_note,
    when=with_compiler,
    warnings=_verify_warnings,
)


def _eval_inputs(build: Build) -> Inputs:
    images, no_top1 = build.measured_on
    subject, quantized = build.subject
    steps = choose(*find_steps(subject), ["float", "nv12", quantized] if subject.takes_images else ["float", quantized])
    seed = build.request.seed
    return given(
        subject=Keyed(subject, subject.name),
        steps=Keyed(steps, {step.name: step.key for step in steps}),
        measured_on=Keyed(MeasuredOn(images, no_top1, seed), [images.fingerprint, images.description, no_top1, seed]),
        root=Keyed(build.workspace.root),
        listener=Keyed(Inside(build.listener, steps=len(steps))),
    )


def _eval_note(_build: Build, result: Evaluation) -> str:
    first, last, images = result.step("float"), result.step(result.quantized), counted(result.n, "image")
    if last.outputs or last.boxes:
        return f"{boxes_line(first, last) if last.boxes else raw_line(last)} on {images}"
    agreement = f"agreement with float {REFERENCES[last.agreement_with]} {last.agreement_percent:.1f} % on {images}"
    if first.score is None or last.score is None:
        return agreement
    return f"Top-1 {first.score.top1:.2f} → {last.score.top1:.2f} %, {agreement}"


def _eval_warnings(build: Build, result: Evaluation) -> Iterator[str]:
    classes, score = build.stage(EXPORT).result.classes, result.step("float").score
    for output in result.step("float").outputs:
        if output.low == output.high:
            yield f"output {output.name} is {output.low:g} everywhere, on every image: its figures say nothing"
    if result.labels_doubt:
        yield result.labels_doubt
    elif score is not None and at_chance(score.top1_right, score.n, classes):
        yield (
            f"the float network itself is near chance for {classes} classes: mean, std, colour, resize or the order of "
            f"the labels is wrong; edge diagnose {build.workspace.root} finds out which"
        )


EVAL = Stage(
    "eval",
    work=evaluate,
    result=Evaluation,
    needs=(EXPORT, SIMPLIFY, QUANTIZE, COMPILE, PORTABLE, VERIFY),
    inputs=_eval_inputs,
    note=_eval_note,
    warnings=_eval_warnings,
)

STAGES: tuple[Stage[Any], ...] = (
    EXPORT, SIMPLIFY, CHECK, CALIBRATE, REWRITE, EQUALIZE, SPLIT, ROUND, THRESHOLDS, RENDER, COMPILE, PORTABLE, VERIFY,
    EVAL,
)  # fmt: skip
PORTABLE_STAGES: tuple[Stage[Any], ...] = (EXPORT, SIMPLIFY, CALIBRATE, QUANTIZE, EVAL)
