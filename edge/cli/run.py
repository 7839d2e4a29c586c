"""``edge run``: show images to a finished program."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from edge.cli.display import examples
from edge.cli.options import FROM_1, PATH, Number, labels_option, option, top_option
from edge.cli.program import (
    backend_line,
    describe_preprocess,
    describe_scores,
    find_program,
    open_program,
    output_lines,
    program_argument,
    running_options,
)
from edge.cli.verb import Verb
from edge.errors import EdgeError, InputError, UsageError, counted, shown
from edge.images.frames import in_order
from edge.specs.schema import ScoreKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.runtime import Net

CLASSES_SHOWN = 5  # in the summary of several images
SCORE = 0.25  # least one of a box, the default of ``Net.detect``
EXAMPLES = (
    "edge run ConvNeXt_atto cheetah.jpg",
    "edge run build/ConvNeXt_atto photos/ -k 3 --out labelled/",
    "edge run other.bin cat.jpg --labels imagenet --resize 256",
    "edge run build/best street.jpg --score 0.4 --out boxes.png",
    "edge run ConvNeXt_atto /dev/video0",
)


@click.command("run", cls=Verb, epilog=examples(EXAMPLES))
@program_argument
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@top_option
@option("--score", f"Of a detector: least score of a box.  [default: {SCORE:g}]", Number(0, 1))
@option("--frames", "Frames of a video, camera or stream, after which it stops.  [default: all]", FROM_1)
@option("--out", "Where images go with their classes below them: a .png or .jpg for one, a folder for several.", PATH)
@labels_option
@option(
    "--scores",
    "What the scores are, of a file without metadata.json.  [default: unknown, shown as they are]",
    click.Choice(get_args(ScoreKind)),
)
@running_options
@click.pass_context
def run_command(
    context: click.Context,
    /,
    *,
    model: str,
    images: tuple[str, ...],
    build_dir: Path,
    backend: str,
    top: int,
    score: float | None,
    frames: int | None,
    out: Path | None,
    labels: str | None,
    scores: ScoreKind | None,
    resize: str | None,
    interpolation: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Classify IMAGEs (files, or folders of them) with MODEL, or find objects in them; of raw outputs show the values.

    An IMAGE may also be a video: a file, a camera (/dev/video0) or a stream (rtsp://…), one for each command. A camera
    and a stream always give their newest frame. A program that takes several inputs, or no image, takes .npz and .npy
    files of edge's samples instead.

    MODEL is a build folder, a bundle, a .bin, a portable ONNX, or a name: ConvNeXt_atto means
    build/ConvNeXt_atto, and ./ConvNeXt_atto a folder here. An image that can't be read is named, the others
    are shown, and the exit code is 1.
    """
    video = _video(images, frames, out, as_json=as_json)
    files = [] if video else _files(images)
    targets = _targets(files, out)
    path = find_program(model, build_dir)
    net, note = open_program(path, backend, labels=labels, scores=scores, resize=resize, interpolation=interpolation)
    with net:
        classes = net.metadata is None or net.metadata.task == "classify"
        boxes = net.metadata is not None and net.metadata.detector is not None
        if not (classes or boxes) and out is not None:
            raise UsageError(
                "--out, but the outputs are no class scores",
                expected="a classifier or a detector",
                remedy=f"in Python: numpy.savez('outputs.npz', **edge.load({str(path)!r}).outputs({str(files[0])!r}))",
            )
        if score is not None and not boxes:
            raise UsageError(
                f"--score {score:g}, but {net.info.model} gives no boxes",
                expected="a detector",
                remedy="leave out --score" + ("; -k N shows more classes or fewer" if classes else ""),
            )
        least = SCORE if score is None else score
        if not as_json:
            _head(net, note, verbose=verbose, classes=classes)

        results, started = list[dict[str, Any]](), time.monotonic()
        # Images are read and boxes decoded while the program runs on the next ones.
        found = (
            _frames(net, video, frames, top, least)
            if video
            else in_order(lambda image: _answer(net, image, top, least, targets.get(image)), files)
        )
        count = 0
        for result in found:
            count += 1
            if as_json or video is None:  # a camera never ends
                results.append(result)
            if not as_json:
                _show(result, least)
        if video and not as_json:
            speed = count / max(time.monotonic() - started, 1e-9)
            click.echo(f"{counted(count, 'frame')}, {speed:.1f} a second")
        elif not as_json and len(results) > 1:
            click.echo(_summary(results, time.monotonic() - started))
        if as_json:
            click.echo(json.dumps(_document(net, path, note, results), indent=2, ensure_ascii=False))
    if any("error" in result for result in results):
        context.exit(1)


def _files(images: Sequence[str]) -> list[Path]:
    """Return the images of files and folders, each once, in the order given."""
    found: dict[Path, None] = {}
    for image in images:
        path = Path(image).expanduser()
        if not path.is_dir():
            found[path] = None
            continue
        from edge.images import open_images
        from edge.images.samples import holds_samples, open_samples

        items = open_samples(path) if holds_samples(path) else open_images(path)
        found |= dict.fromkeys(item.path for item in items if item.path)
    return list(found)


def _targets(files: Sequence[Path], out: Path | None) -> dict[Path, Path]:
    """Return image -> file to write, checked before any work is done."""
    if out is None:
        return {}
    from edge.files import disk_errors, require_ours
    from edge.runtime.annotated import FORMATS, MARK, check_format

    if len(files) == 1 and not out.is_dir() and out.suffix:
        check_format(out)
        targets = {files[0]: out}
    else:
        if out.suffix.lower() in FORMATS or out.is_file():
            raise UsageError(f"--out {out} for {counted(len(files), 'image')}", expected="a folder")
        targets = dict(zip(files, _names(files, out), strict=True))
    inputs = {image.resolve() for image in files}
    for target in targets.values():
        if target.resolve() in inputs:
            raise UsageError(f"--out would overwrite {target}", expected="another name or folder")
        require_ours(target, MARK)
    with disk_errors(out):
        (out if out not in targets.values() else out.parent).mkdir(parents=True, exist_ok=True)
    return targets


def _names(files: Sequence[Path], folder: Path) -> Iterator[Path]:
    taken: set[str] = set()
    for image in files:
        name, number = image.stem, 2
        while name in taken:
            name, number = f"{image.stem}_{number}", number + 1
        taken.add(name)
        yield folder / f"{name}.png"


def _head(net: Net, note: str, *, verbose: bool, classes: bool) -> None:
    click.echo(f"backend  {backend_line(net)}")
    if verbose:
        for entry in net.passed_over:
            click.echo(f"         {entry.backend} passed over: {entry.why}")
        if net.preprocess is not None:
            click.echo(f"input    {describe_preprocess(net.preprocess)}")
    for text in (note, describe_scores(net.score_kind) if classes else ""):
        if text:
            click.echo(f"note     {text}")


def _answer(net: Net, image: Path, k: int, least: float, target: Path | None) -> dict[str, Any]:
    """Return what the program says of an image, or the error that it made; other errors are the program's."""
    from edge.runtime.steps import answer, output_record

    inputs = net.metadata.inputs if net.metadata else ()
    if inputs:
        from edge.images import ImageItem
        from edge.images.samples import read_arrays

        try:
            named = net.outputs(read_arrays(ImageItem(str(image), path=image), inputs)[0])
        except InputError as error:
            return {"image": str(image), "error": str(error)}
        return {"image": str(image), "outputs": [output_record(*item) for item in named.items()]}
    rgb = _read(image)
    if isinstance(rgb, dict):
        return rgb
    size, outputs = (rgb.shape[0], rgb.shape[1]), net.run(net.nv12(rgb))
    result = {"image": str(image), **answer(net, outputs, size, k, least)}
    if target is not None:
        from edge.detect import draw
        from edge.runtime.annotated import annotate, save_image

        try:
            if "boxes" in result:
                drawn = draw(rgb, net.boxes(outputs, size, score=least), net.labels)
            else:
                drawn = annotate(rgb, net.ranked(outputs, k), bars=net.score_kind is not None)
            save_image(target, drawn)
            result["out"] = str(target)
        except EdgeError as error:
            result["error"] = str(error)
    return result


def _video(images: Sequence[str], frames: int | None, out: Path | None, *, as_json: bool) -> str | None:
    """Return the video among the images; None if there is none."""
    from edge.images.video import is_live, is_video

    videos = [image for image in images if is_video(image)]
    if not videos:
        if frames is not None:
            raise UsageError("--frames, but there is no video", remedy="leave the option out")
        return None
    if len(images) > 1:
        raise UsageError(f"{len(images)} sources, one of them the video {videos[0]}", expected="one video alone")
    if out is not None:
        raise UsageError(f"--out with the video {videos[0]}", expected="images", remedy="leave the option out")
    if as_json and frames is None and is_live(videos[0]):
        raise UsageError(f"--json of {videos[0]}, which does not end", remedy="add --frames N")
    return videos[0]


def _frames(net: Net, source: str, frames: int | None, k: int, least: float) -> Iterator[dict[str, Any]]:
    """Yield what the program says of each frame; the next one is read and decoded meanwhile."""
    from edge.images.video import Video
    from edge.runtime.steps import Stopwatch, answer_image, overlap

    with Video(source) as video:
        taken = islice(video, frames)
        yield from overlap(
            lambda one: {"image": f"frame {one.number}", **answer_image(net, one.rgb, Stopwatch(), k, least)}, taken, 1
        )


def _read(image: Path) -> NDArray[np.uint8] | dict[str, Any]:
    """Return an image, or the result of one that can't be read."""
    try:
        from edge.images.preprocess import decode

        return decode(image, str(image))
    except InputError as error:
        return {"image": str(image), "error": str(error)}


def _show(result: dict[str, Any], least: float) -> None:
    click.echo(shown(result["image"]))
    for line in output_lines(result["outputs"]) if "outputs" in result else ():
        click.echo(line)
    if result.get("boxes") == []:
        click.echo(f"  nothing above a score of {least:g}")
    for entry in result.get("boxes", ()):
        left, top, right, bottom = (f"{side:.0f}" for side in entry["box"])
        click.echo(f"  {entry['score']:.2f}  {shown(entry['label'])}  {left},{top} to {right},{bottom}")
    for entry in result.get("labels", ()):
        share = f"{100 * entry['probability']:6.2f} %" if "probability" in entry else f"{entry['score']:8.4f}"
        click.echo(f"  {share}  {shown(entry['label'])}")
    if "out" in result:
        click.echo(f"  → {shown(result['out'])}")
    if "error" in result:
        click.echo(f"error: {result['error']}", err=True)


def _summary(results: Sequence[dict[str, Any]], seconds: float) -> str:
    """Return how many images were given which class, the most frequent first, and how fast it went."""
    answers = Counter(result["labels"][0]["label"] for result in results if "labels" in result)
    answers.update(entry["label"] for result in results for entry in result.get("boxes", ()))
    parts = [f"{shown(label)} ({count})" for label, count in answers.most_common(CLASSES_SHOWN)]
    if others := answers.most_common()[CLASSES_SHOWN:]:
        parts.append(f"{counted(len(others), 'more class')} ({sum(count for _, count in others)})")
    if unread := sum("error" in result for result in results):
        parts.append(f"{unread} not read")
    speed = len(results) / max(seconds, 1e-9)
    return f"{counted(len(results), 'image')}, {speed:.1f} a second with reading them: {', '.join(parts)}"


def _document(net: Net, path: Path, note: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": net.info.model,
        "program": str(path),
        "backend": net.backend,
        "version": net.info.version,
        "exact": net.info.exact,
        "passed_over": [{"backend": entry.backend, "why": entry.why} for entry in net.passed_over],
        "note": note,
        "scores": net.score_kind,
        "images": results,
    }
