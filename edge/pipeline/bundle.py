"""Gather the files of a finished build that the board needs: program, metadata, labels, notebook, C++ if asked for."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cattrs
from attrs import evolve, frozen

from edge import __version__
from edge.errors import ModelFileError, UsageError, WorkspaceError
from edge.files import data_dir, disk_errors, is_plain_name, read_json, require_no_link
from edge.folder.metadata import FILE, FileEntry, Metadata, Role
from edge.pipeline import tros
from edge.pipeline.cpp import sources
from edge.pipeline.wheels import PYTHON, wheels_zip
from edge.runtime.program import Program, locate
from edge.specs.schema import Task

MARKER = ".edge-bundle"
README = "README.txt"
WHEELS, INSTALL = "wheels.zip", "install.sh"
SCHEMA = 1
ARCHIVES = (".tar.gz", ".tgz")
OTHER_ARCHIVES = (".zip", ".7z", ".tar", ".gz", ".bz2", ".xz", ".zst", ".tbz2", ".txz")  # no names of folders
# The quantized ONNX is left out: only the compiler's own Python runs it.
ROLES: tuple[Role, ...] = ("bin", "portable", "labels", "test")
# The model whose notebook is the template for all others.
NOTEBOOK, NOTEBOOK_MODEL = "test_{model}.ipynb", "ConvNeXt_atto"
# Time of everything in an archive; GNU tar warns of the year 1970.
EPOCH = 315532800  # 1980-01-01


@frozen
class Bundle:
    """A bundle that was written."""

    path: Path  #: the folder or archive.
    name: str  #: of the program.
    files: tuple[FileEntry, ...]  #: in the order of the archive, without the marker.
    has_bin: bool  #: whether it can run on the BPU; a build with ``--compiler onnxruntime`` makes no ``.bin``.


def bundle(source: Path, out: Path | None = None, *, cpp: bool = False, wheels: bool = True) -> Bundle:
    """Write the bundle of a finished build; the same build gives the same bytes.

    Files are compared with the checksums in ``metadata.json`` while they are copied. An earlier bundle at ``out`` is
    replaced; files that a user put into the bundle's folder stay.

    Args:
        source: a build folder, a bundle, or a program file in one of them.
        out: a folder, or a name ending in ``.tar.gz`` or ``.tgz``; by default ``<source>_bundle`` beside the source.
        cpp: whether a CMake project that runs the program comes along.
        wheels: whether edge itself comes along, for a board without a network; only with a ``.bin``.

    Raises:
        DownloadError: the packages that edge needs on the board can't be fetched.
        ModelFileError: not a finished build, or a file differs from ``metadata.json``.
        UsageError: ``out`` is the source itself or another kind of archive, or the C++ can't run this model.
        WorkspaceError: ``out`` exists and edge did not make it, or it can't be written.
    """
    folder = source if source.is_dir() else source.parent
    program = locate(source)
    if program.metadata is None:
        raise ModelFileError(
            f"{source} comes without a {FILE} that lists it",
            expected="a build folder, or a program in one",
            remedy="edge build MODEL, then edge bundle MODEL",
        )
    program = locate(folder)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    out = out or folder.with_name(f"{folder.name.removesuffix('_bundle')}_bundle")
    if out.resolve() == folder.resolve():
        raise UsageError(f"the bundle would be written over {folder}", expected="another --out")
    archive = out.name.lower().endswith(ARCHIVES)
    if not archive and out.name.lower().endswith(OTHER_ARCHIVES):
        raise UsageError(
            f"--out {out}: edge makes no {out.suffix}",
            expected=f"a folder, or an archive ending in {' or '.join(ARCHIVES)}",
            remedy=f"--out {out.with_name(out.name.removesuffix(out.suffix).removesuffix('.tar'))}.tar.gz",
        )
    contents = _contents(program, cpp=cpp, wheels=wheels and "bin" in program.files)
    with disk_errors(out.parent, "--out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        (_write_archive if archive else _write_folder)(out, contents)
    files = tuple(_entry(name, data) for name, data in contents.items() if name != MARKER)
    return Bundle(out, program.name, files, "bin" in program.files)


def _contents(program: Program, *, cpp: bool, wheels: bool) -> dict[str, bytes]:
    """Return path -> bytes of everything in the bundle, the marker first and ``metadata.json`` last."""
    metadata = program.metadata
    assert metadata is not None  # noqa: S101 - locate() of a folder
    kept = {role: metadata.files[role] for role in ROLES if role in metadata.files}
    files = {entry.path: program.files[role].read_bytes() for role, entry in kept.items()}
    if not metadata.inputs:  # the notebook's steps are those of an image
        files[NOTEBOOK.format(model=metadata.model)] = notebook(metadata.model, metadata.task).encode()
    files |= tros.files(metadata)
    if cpp:
        files |= sources(metadata)
    if wheels:
        files |= {WHEELS: wheels_zip(), INSTALL: install_script().encode()}
    files[README] = readme(evolve(metadata, files=kept), cpp=cpp, wheels=wheels).encode()
    files = dict(sorted(files.items()))
    files[FILE] = _json(cattrs.unstructure(evolve(metadata, files=kept)))
    marker = _json({"schema_version": SCHEMA, "model": metadata.model, "files": list(files)})
    return {MARKER: marker, **files}


def install_script(python: str = PYTHON) -> str:
    """Return ``install.sh``, which installs ``wheels.zip`` on a board with that Python."""
    return Path(__file__).with_name(INSTALL).read_text(encoding="utf-8").replace("@PYTHON@", python)


def notebook(model: str, task: Task = "classify") -> str:
    """Return the notebook of a model, the text of an ``.ipynb``.

    Args:
        model: letters, digits, ``_``, ``-`` and ``.``; other characters become ``_``.
        task: what the outputs mean: those of a detector become boxes, other raw ones are listed.
    """
    template = data_dir("notebooks") / NOTEBOOK.format(model=NOTEBOOK_MODEL)
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", model)
    text = template.read_text(encoding="utf-8")
    if task != "classify":
        text = _without_classes(text, task)
    return text.replace(NOTEBOOK_MODEL, safe)


def _without_classes(text: str, task: Task) -> str:
    """Return the notebook with boxes or outputs in place of scores, classes and the image with its labels."""
    document = json.loads(text)
    cells = document["cells"]
    forward, classes, speed = (
        next(i for i, cell in enumerate(cells) if "".join(cell["source"]).startswith(heading))
        for heading in ("## 5. Forward", "## 6.", "## 8. Speed")
    )
    if task == "detect":
        cells[forward]["source"] = _BOXES_HEAD.splitlines(keepends=True)
    cells[forward + 1]["source"] = (_BOXES if task == "detect" else _OUTPUTS).splitlines(keepends=True)
    cells[speed]["source"][0] = cells[speed]["source"][0].replace("8.", "6.")
    del cells[classes:speed]
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    for of_classes, of_outputs in _WORDS:
        text = text.replace(of_classes, of_outputs)
    return text.replace("to the outputs", "to boxes") if task == "detect" else text


_WORDS = (
    ("From an image to a label", "From an image to the outputs"),
    ("import annotate, png", "import png"),
    ('    "from edge.runtime.scores import probabilities\\n",\n', ""),
)
_BOXES_HEAD = """## 5. Boxes

The program's outputs, decoded, thinned out, and back in the image's own pixels."""
_BOXES = """from edge.detect import draw as draw_boxes

found = net.detect(rgb, score=0.25)
for box, score, label in zip(found.boxes, found.scores, found.labels):
    print(f"{net.labels[label] if net.labels else label}  {score:.2f}  {box.round(1)}")
display(Image(data=png(draw_boxes(rgb, found, net.labels))))"""
_OUTPUTS = """for name, values in net.outputs(rgb).items():
    print(f"{name}: {values.shape}, {values.min():.5g} to {values.max():.5g}, mean {values.mean():.5g}")"""


def readme(metadata: Metadata, *, cpp: bool = False, wheels: bool = True) -> str:
    """Return ``README.txt``: what is in the bundle and the commands to type on the board."""
    name = NOTEBOOK.format(model=metadata.model)
    call = {"classify": 'classify("IMAGE.jpg", k=5)', "detect": 'detect("IMAGE.jpg")'}.get(
        metadata.task, 'outputs("IMAGE.jpg")'
    )
    if metadata.inputs:
        arrays = ", ".join(f'"{one.name}": {"RGB" if one.image else "numbers"}' for one in metadata.inputs)
        call = f"outputs({{{arrays}}})"
    edge, python = ("./edge", "PYTHONPATH=lib /usr/bin/python3") if wheels else ((f"{_PYTHON} -m edge"), _PYTHON)
    told = "" if metadata.inputs else f"\n  {name:<44} the same, step by step"
    brought = f"\n  {WHEELS:<44} edge, and what it needs\n  {INSTALL:<44} installs it in this folder" if wheels else ""
    bench = "" if metadata.inputs else f"\n  {edge} bench . --threads 1,4"
    jupyter = "" if metadata.inputs else f"\nIn Jupyter, where it runs on the system's Python: {name}.\n"
    image = "SAMPLE.npz" if metadata.inputs else "IMAGE.jpg"
    listed = "\n".join(f"  {entry.path:<44} {_WHAT[role]}" for role, entry in metadata.files.items())
    program = metadata.files.get("bin")
    more = _CPP.format(program="classify" if metadata.detector is None else "detect") if cpp else ""
    more += tros.readme(metadata)
    perf = f"  hrt_model_exec perf --model_file {program.path} --thread_num 4 --frame_count 200\n" if program else ""
    return f"""{metadata.name} for the RDK X5, made by edge {__version__}

{listed}
  {FILE:<44} what it is, and how images become its input{brought}{told}

{_INSTALL if wheels else _PIP if program else _NO_BIN}
In this folder, then:

  {edge} run . {image}{bench}
{perf}{jupyter}{more}
In Python, {python}:

  from edge.runtime import load
  with load(".") as net:
      print(net.backend, net.{call})
"""


_CPP = """
In C++ (cpp/net.h says how to call it from a program of your own):

  sudo apt install cmake g++ libopencv-dev
  cmake -S cpp -B cpp/build && cmake --build cpp/build
  cpp/build/{program} IMAGE.jpg
"""
_PYTHON = "/usr/bin/python3"
_WHAT: Mapping[Role, str] = {
    "bin": "the program",
    "portable": "the same network for onnxruntime, where there is no BPU",
    "labels": "class names, one line per class",
    "test": "a test image as NV12, and the answer to it",
}
_INSTALL = """On the board, once; no network is needed, and nothing outside this folder is changed:

  sh install.sh

It ends with PASS if the BPU gives the test image's answer. To see that again:

  ./edge selftest .
"""
_WHEEL = """edge-*.whl comes from the PC: in the checkout of edge, `pip wheel --no-deps -w . .` makes it.
"""
_PIP = f"""On the board, once, with the system's Python, the only one that has the vendor's runtimes:

  {_PYTHON} -m pip install --user edge-*.whl

{_WHEEL}"""
_NO_BIN = f"""This build has no .bin (it needs the vendor's compiler): onnxruntime runs the portable model on
the processor. Once:

  {_PYTHON} -m pip install --user edge-*.whl onnxruntime

{_WHEEL}"""


def _write_folder(out: Path, contents: Mapping[str, bytes]) -> None:
    old = _claim_folder(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        for name, data in contents.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _write(partial / name, data)
        if old is None:
            if out.is_dir():
                out.rmdir()  # empty: claimed
            partial.replace(out)
            return
        # Renames only, metadata.json last: it names the others with size and checksum.
        for folder in {(out / name).parent for name in old | contents.keys()} - {out}:
            require_no_link(folder)
        for name in contents:
            (out / name).parent.mkdir(exist_ok=True)
            (partial / name).replace(out / name)
        for name in old - contents.keys():
            (out / name).unlink(missing_ok=True)
            with suppress(OSError):  # not empty, or long gone
                if (out / name).parent != out:
                    (out / name).parent.rmdir()
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _claim_folder(out: Path) -> set[str] | None:
    """Return the files of the bundle at ``out``; None if there is nothing."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise WorkspaceError(f"{out} is a file", expected="a folder, or a name ending in .tar.gz")
    try:
        found = read_json(out / MARKER)
        return {name for name in map(str, found["files"]) if name == MARKER or _is_ours(name)}
    except FileNotFoundError:
        strangers = sorted(path.name for path in out.iterdir())
        if not strangers:
            return None
        raise _foreign(out, f"holds files that edge did not bundle ({strangers[0]}, …)") from None
    except (ValueError, KeyError, TypeError):
        raise _foreign(out, f"has a broken {MARKER}") from None


def _is_ours(name: str) -> bool:
    """Say whether a path, read from a marker, can be one of a bundle's: a file in it, or in a folder of it."""
    parts = name.split("/")
    return len(parts) <= 2 and all(map(is_plain_name, parts))


def _write_archive(out: Path, contents: Mapping[str, bytes]) -> None:
    _claim_archive(out)
    top = out.name
    for ending in ARCHIVES:
        top = top.removesuffix(ending)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with (
            temporary.open("wb") as stream,
            # No name, no time: the same contents give the same bytes.
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=EPOCH) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
        ):
            for member, data in _members(top, contents):
                archive.addfile(member, BytesIO(data))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _members(top: str, contents: Mapping[str, bytes]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    folder = tarfile.TarInfo(top)
    folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, EPOCH
    yield folder, b""
    for name, data in contents.items():
        member = tarfile.TarInfo(f"{top}/{name}")
        member.size, member.mode, member.mtime = len(data), 0o644, EPOCH
        yield member, data


def _claim_archive(out: Path) -> None:
    if not out.exists():
        return
    try:
        with tarfile.open(out, "r:gz") as archive:
            ours = any(member.name.endswith(f"/{MARKER}") for member, _ in zip(archive, range(2), strict=False))
    except (OSError, EOFError, tarfile.TarError):
        ours = False
    if not ours:
        raise _foreign(out, "is not a bundle that edge made")


def _foreign(out: Path, why: str) -> WorkspaceError:
    return WorkspaceError(
        f"{out} {why}",
        expected="a new name, an empty folder, or an earlier bundle",
        remedy="move it away, or choose another --out",
    )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _entry(name: str, data: bytes) -> FileEntry:
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest())


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
