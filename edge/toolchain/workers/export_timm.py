"""Export a timm model or a TorchScript file to ONNX; run by the compiler's own Python, which brings torch.

Not imported by edge. One JSON object as the only argument::

    {"tag": "convnext_atto.d2_in1k", "weights": "model.safetensors" or null, "seed": 0,
     "classes": 1000 or null, "height": 224, "width": 224, "range": [-2.1, 2.6], "out": "model.onnx"}

``weights`` null means random weights made from ``seed``. With ``"script": "net.pt"`` that TorchScript file is
exported, and ``tag`` only names it in messages. ``range`` is the range of input values. The ONNX is written
only if it computes what torch does: see ``compare``. The last line of stdout is one JSON object:
``{"parameters", "classes", "nodes", "max_error", "torch", "timm"}``, or with exit status 1
``{"error": "one line", "about": "weights", "model" or "numbers"}``.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 11  # the newest that the compiler takes without converting
INPUT, OUTPUT = "data", "prob"
TOLERANCE = 1e-3  # of the range of the scores; float32 in another order stays below 1e-5
SEEDS = (0, 1)  # one image of noise each


class TimmError(Exception):
    """Something that one line explains; ``about`` is ``weights``, ``model`` or ``numbers``."""

    def __init__(self, message: str, about: str = "model") -> None:
        super().__init__(message)
        self.about = about


def build(job: dict[str, Any]) -> torch.nn.Module:
    """Return the torch model that the job asks for, in evaluation mode."""
    import timm
    import torch

    if job.get("script"):
        return load_script(job)
    architecture = job["tag"].split(".")[0]
    if not timm.is_model(architecture):
        raise TimmError(f"timm {timm.__version__} has no model {architecture!r}")
    # The fused attention operator has no form in opset 11.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 1.13 has no such operator at all, and timm says so
        timm.layers.set_fused_attn(False)
    torch.manual_seed(job["seed"])
    if job["weights"] is None:
        extra = {} if job["classes"] is None else {"num_classes": job["classes"]}
        return spread(timm.create_model(job["tag"], pretrained=False, **extra)).eval()
    try:
        model = timm.create_model(
            job["tag"], pretrained=True, pretrained_cfg_overlay={"file": job["weights"], "hf_hub_id": None}
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise TimmError(f"the weights do not fit {job['tag']}: {first_line(error)}", "weights") from error
    except Exception as error:  # safetensors raises its own class
        raise TimmError(f"the weights can't be read: {first_line(error)}", "weights") from error
    if job["classes"] is not None and model.num_classes != job["classes"]:
        raise TimmError(
            f"the weights of {job['tag']} have {model.num_classes} classes, not {job['classes']}", "weights"
        )
    return model.eval()


def load_script(job: dict[str, Any]) -> torch.nn.Module:
    """Return the network of a TorchScript file; torch.jit.load, unlike torch.load, unpickles no code."""
    import torch

    try:
        return torch.jit.load(job["script"], map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise TimmError(
            f"torch {torch.__version__} can't read {job['tag']} as TorchScript: {first_line(error)}", "weights"
        ) from error


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Move gains, biases and layer scales away from the values that training starts from.

    A gain of 1 or a bias of 0 vanishes from the graph, and a layer scale of 1e-6 silences its block. Such a
    network compiles to less work than a trained one and would look too fast.
    """
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(torch.empty_like(parameter).uniform_(0.05, 0.5))
    return model


def to_onnx(model: torch.nn.Module, job: dict[str, Any]) -> onnx.ModelProto:
    """Export the model and return it as an ONNX object."""
    import io

    import onnx
    import torch

    image = torch.zeros(1, 3, job["height"], job["width"])
    stream = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                image,
                stream,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                do_constant_folding=True,
            )
    except (RuntimeError, AssertionError, torch.onnx.errors.OnnxExporterError) as error:
        size = f"{job['height']}x{job['width']}"
        raise TimmError(f"{job['tag']} can't be exported at {size}: {first_line(error)}") from error
    graph = onnx.load_from_string(stream.getvalue())
    unshare_initializers(graph.graph)
    for node in graph.graph.node:
        node.ClearField("doc_string")  # source lines of this machine's files
    nameless = [node.name for node in graph.graph.node if not node.name.startswith("/")]
    if nameless and not job.get("script"):
        raise TimmError(
            f"torch {torch.__version__} names nodes {nameless[0]!r}, not by module path; "
            "precision recipes need 1.13 or newer"
        )
    onnx.checker.check_model(graph)
    return graph


def unshare_initializers(graph: onnx.GraphProto) -> None:
    """Give each user of a weight its own copy where the exporter merged equal ones through Identity nodes.

    Random weights hold many equal tensors, trained ones hold none; the graph must not depend on that.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.input[0] in tensors]:
        twin = graph.initializer.add()
        twin.CopyFrom(tensors[node.input[0]])
        twin.name = node.output[0]
        tensors[twin.name] = twin
        graph.node.remove(node)


def compare(model: torch.nn.Module, graph: onnx.ModelProto, job: dict[str, Any]) -> float:
    """Return how far the ONNX is from torch: the largest difference, as a share of the range of the scores.

    Both see the same seeded noise over ``job["range"]``.

    Raises:
        TimmError: the scores are no finite numbers, or differ by more than ``TOLERANCE``.
    """
    import numpy as np
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    low, high = job["range"]
    worst = 0.0
    for seed in SEEDS:
        noise = np.random.default_rng(seed).uniform(low, high, (1, 3, job["height"], job["width"]))
        image = noise.astype(np.float32)
        with torch.no_grad():
            wanted = model(torch.from_numpy(image))
        while isinstance(wanted, (tuple, list)):
            wanted = wanted[0]
        exact = wanted.numpy().astype(np.float64).ravel()
        seen = session.run(None, {INPUT: image})[0].astype(np.float64).ravel()
        if not np.isfinite(exact).all():
            raise TimmError(f"{job['tag']} answers noise with nan or infinity", "numbers")
        if seen.shape != exact.shape:
            raise TimmError(f"the ONNX gives {seen.size} scores, torch {exact.size}", "numbers")
        span = float(np.ptp(exact)) or float(np.abs(exact).max()) or 1.0
        share = float(np.abs(exact - seen).max()) / span
        worst = max(worst, share if np.isfinite(share) else float("inf"))
    if worst > TOLERANCE:
        raise TimmError(
            f"the ONNX of {job['tag']} differs from torch by {worst:.2g} of the range of its scores; "
            f"expected: at most {TOLERANCE:g}",
            "numbers",
        )
    return worst


def first_line(error: BaseException) -> str:
    """Return an error's text as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def main(text: str) -> dict[str, Any]:
    """Run one job and return its answer."""
    import timm
    import torch

    job = json.loads(text)
    model = build(job)
    graph = to_onnx(model, job)
    max_error = compare(model, graph, job)
    Path(job["out"]).write_bytes(graph.SerializeToString(deterministic=True))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": getattr(model, "num_classes", None),
        "nodes": len(graph.graph.node),
        "max_error": max_error,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


if __name__ == "__main__":
    try:
        answer, status = main(sys.argv[1]), 0
    except TimmError as failure:
        answer, status = {"error": str(failure), "about": failure.about}, 1
    except Exception as error:
        answer, status = {"error": f"{type(error).__name__}: {first_line(error)}", "about": "model"}, 1
    print(json.dumps(answer))
    sys.exit(status)
