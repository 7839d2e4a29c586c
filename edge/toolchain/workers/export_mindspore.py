"""Export a MindSpore model to ONNX; run by the Python of the mindspore environment.

Not imported by edge. One JSON object as the only argument::

    {"file": "model.mindir" or "model.ckpt", "network": "convnext_tiny" or null,
     "claimed": "convnext_tiny" or null, "classes": 1000 or null, "height": 224, "width": 224,
     "layout": "NCHW", "seed": 0, "images": 2, "range": [-2, 2],
     "out": "model.onnx", "scores": "scores.npz"}

A checkpoint needs ``network``, a name of mindcv's; a MindIR holds its graph, and ``claimed`` is the network that
the user says it is. Writes MindSpore's ONNX (opset 11) and MindSpore's own answers to seeded inputs:
``inputs`` (images, 1, ...) and ``outputs`` (images, ...), float32. The last line of stdout is one JSON
object: ``{"versions", "notes"}``, or with exit status 1 ``{"error": "one line", "about": "model", "weights"
or "input", "remedy": "one line" or null}``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindspore import Parameter, nn

# What optimizers and trainers keep in a checkpoint beside the network.
TRAINING_ONLY = ("moment", "moments", "adam_", "velocity", "accum", "ema", "global_step", "learning_rate",
                 "epoch_num", "step_num", "scale_sense", "current_iterator_step", "last_overflow", "beta",
                 "loss_scale", "slots", "opt_step", "stat")  # fmt: skip
SHOWN = 5  # names in a message
TOLERANCE = 0.02  # of the number of parameters; the sisters of one family differ by 40 % and more


class MindSporeError(Exception):
    """Something that one line explains; ``about`` is ``model``, ``weights`` or ``input``."""

    def __init__(self, message: str, about: str = "model", remedy: str | None = None) -> None:
        super().__init__(message)
        self.about = about
        self.remedy = remedy


def load_mindir(job: dict[str, Any], shape: tuple[int, ...]) -> nn.Cell:
    """Return a MindIR as a network."""
    import mindspore as ms
    from mindspore import nn
    from mindspore.train.mind_ir_pb2 import ModelProto

    raw = ModelProto()
    try:
        raw.ParseFromString(Path(job["file"]).read_bytes())
        inputs = list(raw.graph.input)
    except Exception:
        inputs = []
    if not inputs:
        raise MindSporeError(
            "it is not a MindIR file, or it is encrypted",
            remedy="export it without enc_key: ms.export(net, x, file_name='model', file_format='MINDIR')",
        )
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise MindSporeError(f"it has {len(inputs)} inputs ({names}), not one image", "input")
    found = tuple(inputs[0].tensor[0].dims)
    # MindIR has a fixed graph: a dimension that was left open at export is -1 or 0 here.
    if found != shape:
        open_ = any(size < 1 for size in found)
        layout = "NHWC" if len(found) == 4 and found[3] == 3 else "NCHW"
        remedy = "export it with a fixed image of batch 1"
        if not open_ and len(found) == 4 and found[0] == 1 and layout == job["layout"]:
            height, width = found[2:] if layout == "NCHW" else found[1:3]
            remedy = f"--crop {height}x{width}"
        raise MindSporeError(
            f"its input is {times(found)}{' (open sizes)' if open_ else ''}, but {times(shape)} was asked for",
            "input",
            remedy,
        )
    try:
        net = nn.GraphCell(ms.load(job["file"]))
    except Exception as error:
        raise MindSporeError(
            f"MindSpore {ms.__version__} can't load it: {reason(error)}",
            remedy="export it again with that version or an older one, without enc_key",
        ) from error
    return wrapped(net)


def wrapped(graph: nn.Cell) -> nn.Cell:
    """Return a loaded graph as an ordinary network: mindspore.export refuses a bare GraphCell."""
    from mindspore import nn

    class Network(nn.Cell):
        def __init__(self, inner: nn.Cell) -> None:
            super().__init__(auto_prefix=False)
            self.inner = inner

        # MindSpore compiles the source of this: no annotations, and the name has to be self.
        def construct(self, image):  # noqa: ANN001, ANN202
            return self.inner(image)

    return Network(graph)


def to_onnx(net: nn.Cell, shape: tuple[int, ...], name: str) -> bytes:
    """Return what mindspore.export writes, in a temporary folder: it makes folder and file private."""
    import mindspore as ms
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "own", "model.onnx")
        try:
            ms.export(net, ms.Tensor(np.zeros(shape, np.float32)), file_name=str(path), file_format="ONNX")
        except Exception as error:
            raise MindSporeError(f"MindSpore {ms.__version__} can't write {name} as ONNX: {reason(error)}") from error
        return path.read_bytes()


def load_checkpoint(job: dict[str, Any], notes: list[str]) -> nn.Cell:
    """Return mindcv's network with the checkpoint's weights."""
    import mindcv
    import mindspore as ms

    name = job["network"]
    if not mindcv.is_model(name):
        raise MindSporeError(f"mindcv {mindcv.__version__} has no network {name!r}")
    try:
        weights = ms.load_checkpoint(job["file"])
    except Exception as error:
        raise MindSporeError(
            f"MindSpore can't read it as a checkpoint: {reason(error)}",
            "weights",
            "save it with ms.save_checkpoint(net, 'model.ckpt'), without enc_key",
        ) from error
    classes = job["classes"] or classes_of(name, weights)
    try:
        net = mindcv.create_model(name, num_classes=classes)
    except Exception as error:
        raise MindSporeError(f"mindcv can't make {name} with {classes} classes: {reason(error)}") from error
    require_fit(name, net, weights, classes, notes)
    ms.load_param_into_net(net, weights)
    return net


def classes_of(name: str, weights: dict[str, Parameter]) -> int:
    """Return the number of classes of a checkpoint: the rows of the classifier that mindcv names."""
    heads = [head for head in [classifier(name), "classifier", "head", "fc", "head.fc", "classifier.fc"] if head]
    for head in heads:
        for suffix in (".weight", ".bias"):
            if head + suffix in weights:
                return int(weights[head + suffix].shape[0])
    return 1000


def classifier(name: str) -> str | None:
    """Return the name of a network's classifier, as mindcv gives it."""
    from mindcv.models.registry import model_entrypoint

    module = sys.modules[model_entrypoint(name).__module__]
    config = getattr(module, "default_cfgs", {}).get(name, {})
    return config.get("classifier")


def require_fit(name: str, net: nn.Cell, weights: dict[str, Parameter], classes: int, notes: list[str]) -> None:
    """Fail unless every weight of the network is in the checkpoint, with its shape."""
    wanted = {parameter.name: tuple(parameter.shape) for parameter in net.get_parameters()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    missing = [key for key in wanted if key not in given]
    other = [key for key in wanted if key in given and given[key] != wanted[key]]
    extra = [key for key in given if key not in wanted and not training_only(key)]
    problems = []
    if missing:
        problems.append(f"it lacks {len(missing)} of {len(wanted)} weights: {some(missing)}")
    if other:
        shapes = [f"{key} {times(given[key])} for {times(wanted[key])}" for key in other]
        problems.append(f"{len(other)} have another shape: {some(shapes)}")
    if extra and problems:
        problems.append(f"it has {len(extra)} that the network does not know: {some(extra)}")
    if problems:
        raise MindSporeError(
            f"it does not fit {name} with {classes} classes: " + "; ".join(problems),
            "weights",
            "name the network that it was trained as with --network",
        )
    if extra:
        notes.append(f"{len(extra)} entries of the checkpoint do not belong to {name} and were ignored: {some(extra)}")


def training_only(key: str) -> bool:
    """Tell whether a checkpoint's entry belongs to an optimizer or a trainer."""
    return key.split(".")[0].lower().startswith(TRAINING_ONLY)


def some(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def require_claimed(name: str, net: nn.Cell, classes: int) -> None:
    """Fail unless a MindIR has as many parameters as the mindcv network that the user says it is."""
    import mindcv

    if not mindcv.is_model(name):
        raise MindSporeError(f"mindcv {mindcv.__version__} has no network {name!r}")
    try:
        named = mindcv.create_model(name, num_classes=classes)
    except Exception as error:
        raise MindSporeError(f"mindcv can't make {name} with {classes} classes: {reason(error)}") from error
    own, wanted = (sum(parameter.size for parameter in cell.get_parameters()) for cell in (net, named))
    if abs(own - wanted) > TOLERANCE * wanted:
        raise MindSporeError(
            f"it is not {name}: it has {own / 1e6:.2f} M parameters, "
            f"{name} with {classes} classes {wanted / 1e6:.2f} M",
            remedy="name the right network with --network, or leave --network out: a MindIR needs none",
        )


def run(net: nn.Cell, shape: tuple[int, ...], job: dict[str, Any]) -> int:
    """Write the network's answers to seeded noise in the range of normalised images; return the classes."""
    import mindspore as ms
    import numpy as np

    inputs = np.random.default_rng(job["seed"]).uniform(*job["range"], (job["images"], *shape)).astype(np.float32)
    outputs = []
    for image in inputs:
        answer = net(ms.Tensor(image))
        answer = answer[0] if isinstance(answer, (tuple, list)) else answer
        outputs.append(answer.asnumpy().astype(np.float32))
    np.savez(job["scores"], inputs=inputs, outputs=np.stack(outputs))
    return int(outputs[0].size)


def reason(error: BaseException) -> str:
    """Return the first line of a MindSpore error, at most 300 characters; its C++ stack is left out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def times(shape: Any) -> str:
    """Return a shape such as 1x3x224x224; open sizes as ``?``."""
    return "x".join("?" if size < 1 else str(size) for size in shape) or "a scalar"


def main(text: str) -> dict[str, Any]:
    """Run one job and return its answer."""
    import mindcv
    import mindspore as ms
    from mindspore import nn

    job = json.loads(text)
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    height, width = job["height"], job["width"]
    shape = (1, 3, height, width) if job["layout"] == "NCHW" else (1, height, width, 3)
    notes: list[str] = []
    net = load_mindir(job, shape) if job["network"] is None else load_checkpoint(job, notes)
    net.set_train(False)
    onnx = to_onnx(net, shape, Path(job["file"]).name)
    if job["network"] is None:
        net = nn.GraphCell(ms.load(job["file"]))  # a network that was exported can't be run again
        net.set_train(False)
    classes = run(net, shape, job)
    if job["claimed"] is not None:
        require_claimed(job["claimed"], net, classes)
    Path(job["out"]).write_bytes(onnx)
    return {"versions": {"mindspore": ms.__version__, "mindcv": mindcv.__version__}, "notes": notes}


if __name__ == "__main__":
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own log: errors only
    try:
        answer, status = main(sys.argv[1]), 0
    except MindSporeError as failure:
        answer = {"error": str(failure), "about": failure.about, "remedy": failure.remedy}
        status = 1
    except Exception as error:
        answer, status = {"error": f"{type(error).__name__}: {reason(error)}", "about": "model"}, 1
    print()
    print(json.dumps(answer), flush=True)
    sys.stdout.flush()
    # Skip the interpreter's shutdown, in which MindSpore's cells print tracebacks.
    os._exit(status)
