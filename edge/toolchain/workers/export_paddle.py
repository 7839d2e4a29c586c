"""Export a PaddlePaddle inference model to ONNX; run by the Python of the paddle environment.

Not imported by edge. One JSON object as the only argument::

    {"model": "inference.json", "params": "inference.pdiparams", "height": 224, "width": 224,
     "layout": "NCHW", "seed": 0, "images": 2, "range": [-2, 2],
     "out": "model.onnx", "scores": "scores.npz"}

Writes paddle2onnx's ONNX (opset 11) and Paddle's own answers to seeded inputs: ``inputs`` (images, 1,
...) and ``outputs`` (images, ...), float32. The last line of stdout is one JSON object: ``{"versions", "input"}``,
or with exit status 1 ``{"error": "one line", "about": "model" or "input", "remedy": "one line" or null}``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paddle import inference

OPSET = 11  # the newest that the compiler takes without converting


class PaddleError(Exception):
    """Something that one line explains; ``about`` is ``model`` or ``input``."""

    def __init__(self, message: str, about: str = "model", remedy: str | None = None) -> None:
        super().__init__(message)
        self.about = about
        self.remedy = remedy


def open_predictor(job: dict[str, Any]) -> inference.Predictor:
    """Open the model in Paddle's own runtime: one thread, no graph rewriting."""
    from paddle import inference

    config = inference.Config(job["model"], job["params"])
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(1)
    config.switch_ir_optim(False)
    try:
        return inference.create_predictor(config)
    except Exception as error:  # Paddle's C++ raises RuntimeError, ValueError, OSError and its own
        raise PaddleError(f"Paddle can't load it: {reason(error)}") from error


def image_input(job: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return name and shape of the one image that the model takes, from its ONNX; open sizes fit any."""
    import onnx

    graph = onnx.load(job["out"]).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in graph.input if value.name not in stored}
    shapes = {
        name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        for name, kind in inputs.items()
    }
    if len(shapes) != 1:
        listed = ", ".join(f"{name} {times(shape)}" for name, shape in shapes.items())
        raise PaddleError(
            f"it has {len(shapes)} inputs ({listed}), not one image",
            "input",
            "export the classifier alone: one InputSpec in paddle.jit.save",
        )
    ((name, shape),) = shapes.items()
    height, width = job["height"], job["width"]
    wanted = (1, 3, height, width) if job["layout"] == "NCHW" else (1, height, width, 3)
    kind = inputs[name].elem_type
    if kind != onnx.TensorProto.FLOAT:
        raise PaddleError(f"its input {name!r} is {onnx.TensorProto.DataType.Name(kind).lower()}, not float32", "input")
    if len(shape) != 4 or any(size not in (-1, want) for size, want in zip(shape, wanted, strict=True)):
        remedy = "save it with one image of 3 channels as its input"
        if len(shape) == 4 and shape[0] not in (-1, 1):
            remedy = "save it again with None or 1 as the batch in InputSpec"
        elif len(shape) == 4 and shape[wanted.index(3, 1)] == 3:
            sizes = shape[2:] if job["layout"] == "NCHW" else shape[1:3]
            remedy = f"--crop {sizes[0]}x{sizes[1]}"
        raise PaddleError(
            f"its input {name!r} is {times(shape)}, but {times(wanted)} ({job['layout']}) was asked for",
            "input",
            remedy,
        )
    return name, wanted


def run(predictor: inference.Predictor, name: str, shape: tuple[int, ...], job: dict[str, Any]) -> None:
    """Write the model's answers to seeded noise in the range of normalised images."""
    import numpy as np

    inputs = np.random.default_rng(job["seed"]).uniform(*job["range"], (job["images"], *shape)).astype(np.float32)
    outputs = []
    for image in inputs:
        handle = predictor.get_input_handle(name)
        handle.reshape(shape)
        handle.copy_from_cpu(image)
        try:
            predictor.run()
        except Exception as error:
            raise PaddleError(
                f"Paddle can't run it at {times(shape)}: {reason(error)}",
                "input",
                "name the size that it was saved for with --crop",
            ) from error
        outputs.append(predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu())
    np.savez(job["scores"], inputs=inputs, outputs=np.stack(outputs).astype(np.float32))


def convert(job: dict[str, Any]) -> None:
    """Write the ONNX as paddle2onnx makes it."""
    import paddle2onnx

    try:
        paddle2onnx.export(
            job["model"],
            job["params"],
            save_file=job["out"],
            opset_version=OPSET,
            auto_upgrade_opset=False,
            enable_onnx_checker=True,
            deploy_backend="onnxruntime",
            optimize_tool="None",
            verbose=False,
        )
    except Exception as error:
        raise PaddleError(f"paddle2onnx {paddle2onnx.__version__} can't convert it: {reason(error)}") from error
    if not Path(job["out"]).is_file():
        raise PaddleError(
            f"paddle2onnx {paddle2onnx.__version__} wrote nothing at opset {OPSET}: an operator of the "
            "network is missing there"
        )


def reason(error: BaseException) -> str:
    """Return the line of a Paddle error that says what is wrong, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if "Error Message Summary" in line:
            rest = [item for item in lines[number + 1 :] if not set(item) <= {"-"}]
            lines = rest or lines
            break
    told = next((line for line in lines if "Error:" in line), lines[0] if lines else type(error).__name__)
    return told[:300]


def times(shape: Any) -> str:
    """Return a shape such as 1x3x224x224; open sizes as ``?``."""
    return "x".join("?" if size < 0 else str(size) for size in shape)


def main(text: str) -> dict[str, Any]:
    """Run one job and return its answer."""
    import paddle
    import paddle2onnx

    job = json.loads(text)
    predictor = open_predictor(job)
    convert(job)
    name, shape = image_input(job)
    run(predictor, name, shape, job)
    return {"input": name, "versions": {"paddlepaddle": paddle.__version__, "paddle2onnx": paddle2onnx.__version__}}


if __name__ == "__main__":
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        answer, status = main(sys.argv[1]), 0
    except PaddleError as failure:
        answer = {"error": str(failure), "about": failure.about, "remedy": failure.remedy}
        status = 1
    except Exception as error:
        answer, status = {"error": f"{type(error).__name__}: {reason(error)}", "about": "model"}, 1
    print()
    print(json.dumps(answer), flush=True)
    sys.exit(status)
