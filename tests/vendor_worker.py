"""Run ONNX models in the vendor's runtime for the tests; started by the compiler's own Python.

Protocol: the parent writes .npz files to stdin, each with its length as 8 bytes before it: the model's
bytes as ``model`` and the inputs as ``0``, ``1``, … in the model's order. This side answers with an .npz of
the outputs in order, or with ``error`` as bytes of text where it failed.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile

import numpy as np


def main() -> None:
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from horizon_nn.executor import session  # noqa: F401 - registers the operators
    from horizon_tc_ui import HB_ONNXRuntime

    while True:
        head = sys.stdin.buffer.read(8)
        if len(head) < 8:
            return
        message = np.load(io.BytesIO(sys.stdin.buffer.read(int.from_bytes(head, "little"))))
        try:
            with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
                file.write(message["model"].tobytes())
                file.flush()
                net = HB_ONNXRuntime(model_file=file.name)
                inputs = {name: message[str(i)] for i, name in enumerate(net.input_names)}
                outputs = net.run_direct(net.output_names, inputs)
            answer = {str(i): output for i, output in enumerate(outputs)}
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            answer = {"error": np.frombuffer(text.encode(), np.uint8)}
        file = io.BytesIO()
        np.savez(file, **answer)
        data = file.getvalue()
        channel.write(len(data).to_bytes(8, "little") + data)
        channel.flush()


if __name__ == "__main__":
    main()
