"""Tell a TorchScript file from the other things that end in .pt, without unpickling anything."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edge.errors import ModelFileError

SUFFIXES = (".pt", ".pth", ".ts", ".torchscript")
_PICKLE = b"\x80"  # every pickle since protocol 2 begins so
_SAVE_IT = (
    "in the training code: torch.jit.trace(model.eval(), torch.zeros(1, 3, 224, 224)).save('net.pt'), "
    "or torch.onnx.export(..., opset_version=11) for an .onnx"
)


def require_torchscript(path: Path) -> None:
    """Fail unless the file is TorchScript: an archive that holds the network's code beside its tensors.

    A pickle may run any code when it is read, so a checkpoint or a pickled module is never opened.

    Raises:
        ModelFileError: missing, or something else, which is named.
    """
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist", allowed="a path of a TorchScript file")
    allowed = "TorchScript, as torch.jit.save writes it: code and weights in one archive"
    names = _names(path)
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return
    with path.open("rb") as file:
        pickled = file.read(1) == _PICKLE
    if pickled or any(name.endswith("/data.pkl") for name in names):
        raise ModelFileError(
            f"{path} is a pickle of torch.save (weights, or a whole module), no TorchScript; edge opens no "
            "pickles: they can run code, and weights alone do not tell the network",
            allowed=allowed,
            remedy=_SAVE_IT,
        )
    raise ModelFileError(f"{path} is no TorchScript file", allowed=allowed, remedy=_SAVE_IT)


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []
