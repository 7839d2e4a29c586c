"""From a PaddlePaddle or MindSpore model to a float ONNX that gives the framework's own answers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from edge.errors import InputError, ModelFileError, ToolchainError
from edge.graph.files import load_onnx, open_session
from edge.specs import Preprocess

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from edge.toolchain.found import Toolchain

WORKERS = {"paddle": "export_paddle.py", "mindspore": "export_mindspore.py"}
TITLES = {"paddle": "PaddlePaddle", "mindspore": "MindSpore"}
IMAGES = 2  # seeded inputs for the comparison
TOLERANCE = 1e-3  # of the range of the framework's own scores
AGAIN = "copy or save it again; if that does not help, export it to ONNX yourself: edge build net.onnx"


@frozen
class Converted:
    """How the conversion went."""

    exporter: str  #: versions of the programs that ran.
    #: largest difference between the scores of the ONNX and of the framework, as a share of the range of the
    #: framework's scores.
    max_error: float
    notes: tuple[str, ...]  #: notes for the user.


def convert(
    *,
    source: str,
    file: Path,
    network: str | None,
    classes: int | None,
    preprocess: Preprocess,
    environment: Toolchain,
    target: Path,
    log: Path,
    seed: int,
    timeout: float,
) -> Converted:
    """Write ``target``; the same files and environment give the same bytes.

    Args:
        source: ``paddle`` or ``mindspore``.
        file: Paddle's graph with its weights beside it, a MindIR or a checkpoint.
        network: mindcv's name; a checkpoint needs it, a MindIR must be that network.
        classes: number of scores that a checkpoint's network must have; None takes the checkpoint's.
        timeout: seconds.

    Raises:
        InputError: the file is broken, or does not fit the network or the input size.
        ModelFileError: the ONNX gives other scores than the framework.
        ToolchainError: the framework crashed or hung.
    """
    height, width = preprocess.crop
    with tempfile.TemporaryDirectory(prefix="edge-export-", dir=target.parent) as folder:
        raw, scores = Path(folder, "raw.onnx").resolve(), Path(folder, "scores.npz").resolve()
        job: dict[str, Any] = {
            "height": height,
            "width": width,
            "layout": preprocess.layout,
            "seed": seed,
            "images": IMAGES,
            "range": preprocess.value_range,
            "out": str(raw),
            "scores": str(scores),
        }
        if source == "paddle":
            job |= {"model": str(file), "params": str(file.with_suffix(".pdiparams"))}
        else:
            # A MindIR holds its graph; the name given with it selects the preprocessing, so it must be right.
            kind = "network" if file.suffix.lower() == ".ckpt" else "claimed"
            job |= {"file": str(file), "network": None, "claimed": None, "classes": classes, kind: network}
        answer = _ask(source, job, environment, file, log, timeout)
        if not (raw.is_file() and scores.is_file()):
            raise ToolchainError(f"{TITLES[source]} wrote no ONNX for {file.name}")
        import numpy as np

        with np.load(scores) as stored:
            inputs, outputs = stored["inputs"], stored["outputs"]
        model = load_onnx(raw)
        normal_form(model, inputs.shape[1:], outputs.shape[1:])
        target.write_bytes(model.SerializeToString(deterministic=True))
    max_error = compare(target, inputs, outputs, f"{file.name}: ", TITLES[source])
    said = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    return Converted(said, max_error, tuple(answer.get("notes", ())))


def normal_form(model: onnx.ModelProto, shape: tuple[int, ...], scores: tuple[int, ...]) -> None:
    """Give a framework's ONNX static shapes, weights as initializers, and LayerNorms in a form for the BPU.

    Args:
        model: with one input, and the scores as first output; changed in place.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in stored]
    for value, sizes in ((images[0], shape), (model.graph.output[0], scores)):
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for size in sizes:
            dims.add(dim_value=size)
    del model.graph.value_info[:]
    _store_constants(model.graph)
    _mean_squares(model.graph)


def _store_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers: paddle2onnx writes the weights as Constants."""
    kept = []
    for node in graph.node:
        value = node.attribute[0] if node.op_type == "Constant" and len(node.attribute) == 1 else None
        if value is None or value.name != "value":
            kept.append(node)
            continue
        tensor = graph.initializer.add()
        tensor.CopyFrom(value.t)
        tensor.name = node.output[0]
    kept = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(kept)


def _mean_squares(graph: onnx.GraphProto) -> None:
    """Rewrite ReduceSumSquare(x) / n, MindSpore's variance, as ReduceMean(x ** 2): the BPU has no ReduceSumSquare.

    If n is not the number of summed elements by the inferred shape, the node stays.
    """
    import onnx
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    shapes = _shapes(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "ReduceSumSquare":
            continue
        after = readers.get(node.output[0], [])
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        shape = shapes.get(node.input[0])
        if len(after) != 1 or after[0].op_type != "Div" or not shape:
            continue
        divisor = tensors.get(after[0].input[1])
        count = 1
        for axis in attributes.get("axes", range(len(shape))):
            count *= shape[axis]
        if divisor is None or numpy_helper.to_array(divisor).ravel().tolist() != [float(count)]:
            continue
        squared = f"{node.output[0]}_squared"
        exponent = helper.make_tensor(f"{squared}_exponent", onnx.TensorProto.FLOAT, (), [2.0])
        graph.initializer.append(exponent)
        power = helper.make_node("Pow", [node.input[0], exponent.name], [squared], name=f"{node.name}/Pow")
        mean = helper.make_node(
            "ReduceMean", [squared], [after[0].output[0]], name=f"{node.name}/ReduceMean", **attributes
        )
        graph.node.remove(after[0])
        graph.node.remove(node)
        graph.node.insert(place, power)
        graph.node.insert(place + 1, mean)


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the static shapes that inference finds."""
    import onnx
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input)
        if all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }


def compare(path: Path, inputs: np.ndarray, outputs: np.ndarray, origin: str, title: str) -> float:
    """Return the largest difference from the framework's scores, as a share of their range.

    Args:
        inputs: float32, (images, 1, ...).
        outputs: the framework's scores for them, (images, ...).

    Raises:
        ModelFileError: it is above the tolerance, or a score is nan or infinite.
    """
    import numpy as np

    session = open_session(path)
    name = session.get_inputs()[0].name
    found = np.stack([session.run(None, {name: image})[0] for image in inputs])
    if not np.isfinite(outputs).all():
        raise ModelFileError(
            f"{origin}{title} itself answers with nan or infinity",
            remedy="check the weights: were they trained, saved and copied completely?",
        )
    spread = float(outputs.max() - outputs.min())
    error = float(np.abs(found - outputs).max()) if found.shape == outputs.shape else float("inf")
    share = error / spread if spread else (0.0 if error == 0 else float("inf"))
    if not share <= TOLERANCE:
        raise ModelFileError(
            f"{origin}the ONNX gives other scores than {title}: up to {error:.3g} apart, "
            f"{share:.2g} of the range of the scores ({spread:.3g})",
            expected=f"up to {TOLERANCE:g} of the range",
            remedy="an operator was converted wrongly: export the model to ONNX with another version of "
            f"{title}, then: edge build FILE.onnx",
        )
    return share


def _ask(
    source: str, job: dict[str, Any], environment: Toolchain, file: Path, log: Path, timeout: float
) -> dict[str, Any]:
    """Run the framework's worker; return its answer."""
    title = TITLES[source]
    done = environment.run_python(
        [str(environment.worker_path(WORKERS[source])), json.dumps(job)],
        cwd=log.parent,
        timeout=timeout,
        log=log,
        env={"OMP_NUM_THREADS": "1"},  # sums in the same order: the same answers everywhere
    )
    if done.timed_out:
        raise ToolchainError(f"{title} did not export {file.name} within {timeout:.0f} s")
    answer = last_json(done.tail)
    if done.returncode == 0 and "versions" in answer:
        return answer
    if "error" in answer:
        raise InputError(f"{file.name}: {answer['error']}", remedy=answer.get("remedy") or AGAIN)
    last = [line for line in done.tail.splitlines() if line.strip()]
    if "no space left" in done.tail.lower():
        raise ToolchainError(
            f"the disk is full while {title} exports {file.name}", remedy="free some space and run it again"
        )
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    raise ToolchainError(
        f"{title} ended with {how} while it exported {file.name}" + (f": {last[-1].strip()[:200]}" if last else ""),
        remedy="a corrupt file can do this: copy or export it again",
    )


def last_json(text: str) -> dict[str, Any]:
    """Return the last line that is a JSON object; empty if there is none."""
    for line in reversed(text.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict):
            return answer
    return {}
