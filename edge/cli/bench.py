"""``edge bench``: how fast a finished program runs here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cattrs
import click

from edge.cli.display import examples, table
from edge.cli.options import FROM_1, PATH, Number, option
from edge.cli.program import backend_line, find_program, open_program, program_argument, running_options
from edge.cli.verb import Verb
from edge.errors import ImageError, UsageError, counted

if TYPE_CHECKING:
    from edge.runtime import Net
    from edge.runtime.bench import Latency

EXAMPLES = (
    "edge bench ConvNeXt_atto",
    "edge bench ConvNeXt_atto --threads 1,4 --frames 200 --backend portable",
    "edge bench ConvNeXt_atto_bundle --image cheetah.jpg --json",
)
RENDERED = (640, 480)  # width, height of the image that is measured with if none is given
COLUMNS = ("threads", "frames", "FPS", "p50", "p90", "p99", "min", "max")


@click.command("bench", cls=Verb, epilog=examples(EXAMPLES))
@program_argument
@option("--threads", "Numbers of threads to measure with, each 1 to 64, with commas.", default="1,4", value="N,N")
@option("--frames", "Frames for each number of threads.", FROM_1, 200)
@option("--seconds", "Seconds for each number of threads, after which no further frame begins.", Number(min=0.1), 60.0)
@option("--image", "Image file to measure with.  [default: a rendered one of 640x480 pixels]", PATH, value="FILE")
@running_options
def bench_command(
    *,
    model: str,
    build_dir: Path,
    threads: str,
    frames: int,
    seconds: float,
    image: Path | None,
    backend: str,
    resize: str | None,
    interpolation: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Measure latency and frames a second of MODEL, through the calls that your own program would make.

    MODEL is a build folder, a bundle, a .bin, a portable ONNX, or a name: ConvNeXt_atto means
    build/ConvNeXt_atto, and ./ConvNeXt_atto a folder here. Preprocessing (image file to NV12) is measured
    apart from the forward pass.
    """
    from edge.runtime.bench import measure, measure_preprocessing
    from edge.runtime.machine import ON_BOARD, machine

    counts = _counts(threads)
    data, described = _image_file(image)
    path = find_program(model, build_dir)
    net, note = open_program(path, backend, threads=max(counts), resize=resize, interpolation=interpolation)
    with net:
        if [tensor.nv12 for tensor in net.info.inputs] != [True] or net.preprocess is None:
            raise UsageError(
                f"{net.info.model} takes {counted(len(net.info.inputs), 'input')}, not one NV12 image",
                remedy="measure it with edge.runtime.bench.measure(net, inputs)",
            )
        preprocessing = measure_preprocessing(net, data)
        from edge.images.preprocess import decode

        nv12 = net.nv12(decode(data))
        runs = []
        for count in counts:
            if sys.stderr.isatty():
                click.echo(f"measuring {counted(frames, 'frame')}, {counted(count, 'thread')} …", err=True)
            runs.append(measure(net, [nv12], threads=count, frames=frames, limit=seconds))
    simulator = net.backend not in ON_BOARD
    static = _static(path)
    document = {
        "model": net.info.model,
        "program": str(path),
        "backend": net.backend,
        "version": net.info.version,
        "simulator": simulator,
        "machine": machine(),
        "image": described,
        "note": note,
        "forward": [cattrs.unstructure(run) for run in runs],
        "preprocessing": {**cattrs.unstructure(preprocessing), "threads": 1},
        "static": static,
    }
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"model      {net.info.model}")
    click.echo(f"backend    {backend_line(net)}")
    if verbose:
        for entry in net.passed_over:
            click.echo(f"           {entry.backend} passed over: {entry.why}")
    click.echo(f"machine    {document['machine']}")
    click.echo(f"image      {described}")
    if note:
        click.echo(f"note       {note}")
    click.echo()
    _table(document, frames, seconds)
    click.echo()
    _closing(net, preprocessing.decode, preprocessing.nv12, static)


def _table(document: dict[str, Any], frames: int, seconds: float) -> None:
    rows: list[tuple[str, ...]] = [COLUMNS]
    for run in document["forward"]:
        latency = run["latency"]
        times = (latency[key] for key in ("p50", "p90", "p99", "minimum", "maximum"))
        cells = (f"{run['fps']:.2f}", *(f"{value:.3f}" for value in times))
        rows.append((str(run["threads"]), str(latency["frames"]), *cells))
    heading, *lines = table(rows, left=(), heading=False)
    click.echo("\n".join([f"{heading}  ms a frame, forward pass", *lines]))
    if any(run["latency"]["frames"] < frames for run in document["forward"]):
        click.echo(
            f"Stopped after {seconds:g} s for a number of threads (--seconds), before {counted(frames, 'frame')}."
        )


def _closing(net: Net, decode: Latency, nv12: Latency, static: dict[str, Any] | None) -> None:
    from edge.runtime.machine import ON_BOARD

    click.echo(
        f"preprocess  decode {decode.p50:.3f} ms, resize, crop and NV12 {nv12.p50:.3f} ms "
        f"(p50 of {nv12.frames}, 1 thread)"
    )
    if static:
        from edge.report.wording import static_line

        click.echo(f"static      {static_line(static)}: the compiler's figure for the BPU part, on the board")
    if net.backend not in ON_BOARD:
        click.echo(
            f"{net.backend} executes on this machine's processor: the table is this machine's speed, not the board's."
        )


def _counts(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 1 <= int(part) <= 64 for part in parts):
        raise UsageError(f"--threads {text}", expected="numbers of 1 to 64 with commas, such as 1,4")
    return list(dict.fromkeys(int(part) for part in parts))


def _image_file(image: Path | None) -> tuple[bytes, str]:
    """Return the bytes of the image file to measure with, and what it is."""
    from edge.images.preprocess import decode

    if image is not None:
        try:
            data = image.expanduser().read_bytes()
        except OSError as error:
            raise ImageError(
                f"{image} can't be read: {error.strerror or error}", remedy="check the path and its permissions"
            ) from error
        height, width = decode(data, str(image)).shape[:2]
        return data, f"{image.name}, {width}x{height}"
    import cv2

    from edge.images.demo import draw

    enlarged = cv2.resize(draw("test", 0)[0], RENDERED, interpolation=cv2.INTER_CUBIC)
    encoded = cv2.imencode(".jpg", enlarged[..., ::-1])[1]
    return encoded.tobytes(), f"rendered, {RENDERED[0]}x{RENDERED[1]} JPEG"


def _static(path: Path) -> dict[str, Any] | None:
    """Return the compiler's static figures from ``manifest.json`` beside the program, if there are any."""
    from edge.files import read_json

    folder = path if path.is_dir() else path.parent
    try:
        found = read_json(folder / "manifest.json")["static"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None
