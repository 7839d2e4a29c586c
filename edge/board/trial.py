"""One inference on a board, to see that its BPU works and answers rightly."""

from __future__ import annotations

import time

import numpy as np

from edge.board.connection import Connection
from edge.board.findings import Check
from edge.board.infer import BoardRunner
from edge.board.transfer import push
from edge.errors import BoardError, ModelFileError, UsageError
from edge.progress import Reporter
from edge.runtime import Info, Tensor
from edge.runtime.answer import read_answer
from edge.runtime.program import Program

LIMIT = 120.0  # seconds
NAME = "inference"
# A program of the vendor's that RDK OS brings.
_SAMPLE = r"""
PATH=$PATH:/usr/hobot/bin
for model in "${EDGE_BOARD_ROOT:-}"/opt/hobot/model/x5/basic/*.bin; do
    [ -r "$model" ] && command -v hrt_model_exec >/dev/null || continue
    printf '\n@edge ran %s\n' "${model##*/}"
    exec hrt_model_exec perf --model_file="$model" --core_id=0 --thread_num=1 --frame_count=1 \
        --profile_path="$1" 2>&1
done
"""


def try_sample(connection: Connection) -> Check:
    """Run the first of the programs that RDK OS brings, once."""
    with connection.scratch() as folder:
        output = connection.run(_SAMPLE, folder, limit=LIMIT, may_fail=True)
    name = output.text.partition("@edge ran ")[2].partition("\n")[0].strip()
    if not name:
        return Check(NAME, "warn", "not tried: no program of the vendor's there", "edge board check HOST MODEL")
    if output.status:
        lines = output.text.strip().splitlines()
        remedy = "restart the board; if it stays, apt-get install --reinstall hobot-dnn there"
        return Check(NAME, "bad", f"{name} failed with exit status {output.status}: {lines[-1][:200]}", remedy)
    return Check(NAME, "ok", f"{name} of RDK OS ran")


def try_program(connection: Connection, program: Program, reporter: Reporter) -> Check:
    """Copy a program to a temporary folder, run its test image with the vendor's tool, and compare the answer."""
    about = program.metadata
    if about is None or about.inputs:
        return Check(NAME, "warn", "not tried: it takes no single image, or its size is not known")
    canvas = about.preprocess.canvas
    try:
        with connection.scratch() as folder:
            pushed = push(connection, program, folder, reporter)
            with BoardRunner(connection, pushed.bin, canvas, LIMIT) as board:
                shapes = [tensor.valid for tensor in board.tensors]
                info = Info(
                    "hrt_model_exec",
                    program.name,
                    "",
                    inputs=(Tensor("image", (1, 3, *canvas), "uint8", nv12=True),),
                    outputs=tuple(Tensor(str(place), shape, "float32") for place, shape in enumerate(shapes)),
                )
                stored = read_answer(program.files["test"], info) if "test" in program.files else None
                size = info.inputs[0].elements
                frame = np.full(size, 128, np.uint8) if stored is None else stored.given(info)[0].astype(np.uint8)
                begin = time.monotonic()
                (outputs,) = board.run([frame])
                seconds = time.monotonic() - begin
    except (BoardError, UsageError, ModelFileError) as error:
        return Check(NAME, "bad", error.seen, error.remedy or "")
    if stored is None:
        return Check(NAME, "warn", "ran; the build has no answer to compare with", "edge build MODEL writes one")
    difference = stored.difference(outputs)
    if difference:
        remedy = "restart the board, then check again; edge board run HOST MODEL IMAGE shows more"
        return Check(NAME, "bad", f"the test image is answered wrongly: {difference}", remedy)
    return Check(NAME, "ok", f"the test image is answered as the build says, in {seconds:.1f} s with the tool")
