"""Make the models that the framework tests export; run by the framework's own Python, never imported.

usage: framework_nets.py paddle|mindspore FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def paddle_models(folder: Path) -> None:
    import paddle
    from paddle.vision.models import mobilenet_v2

    class TwoInputs(paddle.nn.Layer):
        def forward(self, x: Any, y: Any) -> Any:
            return paddle.flatten(x + y, 1)

    def save(net: Any, name: str, *shapes: list[int | None]) -> None:
        specs = [paddle.static.InputSpec(shape, "float32", name=f"x{i}") for i, shape in enumerate(shapes)]
        net.eval()
        paddle.jit.save(net, str(folder / name / "inference"), input_spec=specs)

    paddle.seed(0)
    net = mobilenet_v2(scale=0.25, num_classes=10)
    for parameter in net.parameters():  # as they begin, the scores are 1e-6 apart
        parameter.set_value(parameter * (3.0 if parameter.ndim == 4 else 1.0))
    save(net, "open", [None, 3, None, None])
    save(net, "fixed", [1, 3, 64, 64])
    save(net, "batch8", [8, 3, 64, 64])
    save(TwoInputs(), "two", [1, 3, 64, 64], [1, 3, 64, 64])


def mindspore_models(folder: Path) -> None:
    import mindcv
    import mindspore as ms
    import numpy as np

    ms.set_seed(0)
    net = mindcv.create_model("convnext_tiny", num_classes=10)
    net.set_train(False)
    folder.mkdir(parents=True, exist_ok=True)
    ms.save_checkpoint(net, str(folder / "net.ckpt"))
    image = ms.Tensor(np.zeros((1, 3, 32, 32), np.float32))
    ms.export(net, image, file_name=str(folder / "net"), file_format="MINDIR")


if __name__ == "__main__":
    {"paddle": paddle_models, "mindspore": mindspore_models}[sys.argv[1]](Path(sys.argv[2]))
