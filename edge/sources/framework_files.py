"""Find, check and hash the files of a framework's model; needs no framework."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from attrs import frozen

from edge.errors import InputError, ModelFileError, UsageError
from edge.files import sha256_of

SUFFIXES = (".pt", ".pth", ".ts", ".torchscript")
_PICKLE = b"\x80"  # first byte of every pickle since protocol 2
_SAVE_IT = (
    "in the training code, with the size of the input: x = torch.zeros(1, 3, 224, 224); "
    "torch.onnx.export(model.eval(), x, 'net.onnx'), or torch.jit.trace(model.eval(), x).save('net.pt')"
)


def require_torchscript(path: Path) -> None:
    """Fail unless the file is TorchScript: an archive that holds the network's code beside its tensors.

    A pickle may run any code when it is read, so a checkpoint or a pickled module is never opened.

    Raises:
        ModelFileError: it is missing or another kind of file, which the message names.
    """
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist", expected="a path of a TorchScript file")
    expected = "TorchScript, as torch.jit.save writes it: code and weights in one archive"
    names = _names(path)
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return
    with path.open("rb") as file:
        pickled = file.read(1) == _PICKLE
    if pickled or any(name.endswith("/data.pkl") for name in names):
        raise ModelFileError(
            f"{path} is a pickle of torch.save (weights, or a whole module), not TorchScript; edge opens no "
            "pickles: they can run code, and weights alone do not define the network",
            expected=expected,
            remedy=_SAVE_IT,
        )
    raise ModelFileError(f"{path} is not a TorchScript file", expected=expected, remedy=_SAVE_IT)


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


PADDLE_GRAPHS = (".json", ".pdmodel")  # Paddle 3 writes the first, Paddle 2 the second
PADDLE_EXPORT = (
    "save it for inference: paddle.jit.save(net, 'DIR/inference', input_spec=[paddle.static.InputSpec("
    "[1, 3, 224, 224], 'float32')]), or PaddleClas's tools/export_model.py"
)
_SHOWN = 8  # names of a folder in a message


@frozen
class FrameworkFiles:
    """A model's files on this machine."""

    main: Path  #: the graph, or the MindSpore file.
    sha256: str  #: of all of them together.


def paddle_files(folder: Path) -> FrameworkFiles:
    """Return the inference model in a folder; the path of its graph or weights works too.

    Raises:
        InputError: no such folder, a training checkpoint, only one of the two files, or several models.
    """
    if folder.suffix in (*PADDLE_GRAPHS, ".pdiparams") and folder.is_file():
        stem = folder.with_suffix("")
        folder = folder.parent
        stems = [stem.name]
    elif folder.is_dir():
        stems = sorted({path.stem for path in folder.glob("*.pdiparams")})
    else:
        seen = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(
            f"{folder} {seen}", expected="a folder with inference.json or inference.pdmodel and .pdiparams"
        )
    pairs = [
        (folder / f"{stem}{suffix}", folder / f"{stem}.pdiparams")
        for stem in stems
        for suffix in PADDLE_GRAPHS
        if (folder / f"{stem}{suffix}").is_file() and (folder / f"{stem}.pdiparams").is_file()
    ]
    if not pairs:
        raise _no_paddle_model(folder)
    if len({params for _, params in pairs}) > 1:
        raise InputError(
            f"{folder} holds {len(pairs)} models: {', '.join(graph.name for graph, _ in pairs)}",
            remedy=f"name one: --paddle {pairs[0][0]}",
        )
    graph, params = pairs[0]
    for path in (graph, params):
        if path.stat().st_size == 0:
            raise InputError(f"{path} has no content", remedy="copy or export it again")
    return FrameworkFiles(graph, sha256_of_all(graph, params))


def mindspore_file(path: Path, network: str | None) -> FrameworkFiles:
    """Return a MindIR, with the weights beside it, or a checkpoint.

    Args:
        network: mindcv's name of the network; a checkpoint needs one.

    Raises:
        InputError: no such file, or of another kind.
        UsageError: a checkpoint without a network's name.
    """
    expected = "a MindIR (.mindir), or a checkpoint (.ckpt) with --network NAME"
    if not path.is_file():
        seen = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {seen}", expected=expected)
    suffix = path.suffix.lower()
    if suffix not in (".mindir", ".ckpt"):
        remedy = f"edge build {path}" if suffix == ".onnx" else None
        if suffix == ".air":
            remedy = "export it as MindIR: ms.export(net, x, file_name='model', file_format='MINDIR')"
        raise InputError(f"{path} is not a MindSpore file that edge reads", expected=expected, remedy=remedy)
    if path.stat().st_size == 0:
        raise InputError(f"{path} has no content", remedy="copy or export it again")
    if suffix == ".ckpt" and network is None:
        raise UsageError(
            f"{path.name} is a checkpoint: it holds weights but no network",
            expected="--network with a name of mindcv's, or a MindIR, which holds both",
            remedy=f"--mindspore {path} --network convnext_tiny",
        )
    parts = [path]
    if suffix == ".mindir":
        # Above 1 GB MindSpore writes NAME_graph.mindir and the weights into NAME_variables/.
        beside = path.with_name(path.stem.removesuffix("_graph") + "_variables")
        parts += sorted(item for item in beside.glob("*") if item.is_file()) if beside.is_dir() else []
    return FrameworkFiles(path, sha256_of_all(*parts))


def _no_paddle_model(folder: Path) -> InputError:
    names = sorted(path.name for path in folder.iterdir())
    endings = {Path(name).suffix for name in names}
    if ".pdiparams" in endings:
        lonely = next(name for name in names if name.endswith(".pdiparams"))
        return InputError(
            f"{folder} has {lonely} but no {Path(lonely).stem}.json or .pdmodel beside it",
            expected="both: the graph and its weights",
            remedy=PADDLE_EXPORT,
        )
    if endings & {".pdparams", ".pdopt", ".pdstates"}:
        return InputError(
            f"{folder} holds a training checkpoint ({', '.join(names[:_SHOWN])}): weights without a network",
            expected="an inference model: inference.json or .pdmodel, and inference.pdiparams",
            remedy=PADDLE_EXPORT,
        )
    if ".pdmodel" in endings:
        return InputError(f"{folder} has a .pdmodel but no .pdiparams with the same name", remedy=PADDLE_EXPORT)
    if "__model__" in names:
        return InputError(f"{folder} has the format of Paddle 1 (__model__)", remedy=f"with Paddle 2: {PADDLE_EXPORT}")
    listed = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
    return InputError(
        f"{folder} holds no inference model of PaddlePaddle but {listed}" if names else f"{folder} is an empty folder",
        expected="inference.json or .pdmodel, and inference.pdiparams",
        remedy=PADDLE_EXPORT,
    )


def sha256_of_all(*paths: Path) -> str:
    """Return one checksum of all files of a model; for a single file its sha256."""
    if len(paths) == 1:
        return sha256_of(paths[0])
    return hashlib.sha256("".join(sha256_of(path) for path in paths).encode()).hexdigest()
