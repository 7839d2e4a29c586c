"""A stand-in for the board's hrt_model_exec: it prints like the real one and truly computes.

What it does wrong is told by lines ``exec <mode>`` in the mode file; it answers from the portable model that
stands for the program.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

BOARD = Path(os.environ["FAKE_BOARD"])
CAPTURES = Path(__file__).parent / "captures"
BANNER = (
    "[BPU_PLAT]BPU Platform Version(1.3.6)! soc info(x5)\n"
    "[HBRT] set log level as 0. version = {hbrt}.0\n"
    "[DNN] Runtime version = 1.24.5_({hbrt} HBRT)\n"
    "[A][DNN][packed_model.cpp:247][Model](2026-08-18,01:27:41.818.304) "
    "[HorizonRT] The model builder version = 1.24.3\n"
)
GLOG = 'I0000 00:00:00.000000 626414 vlog_is_on.cc:197] RAW: Set VLOG level for "*" to 3\n'
LINE = "-" * 69


def modes() -> dict[str, str]:
    text = (BOARD / "mode").read_text()
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def main(arguments: list[str]) -> int:
    verb, flags = arguments[0], dict(word.removeprefix("--").split("=", 1) for word in arguments[1:])
    mode = modes()
    if verb in ("-v", "--version"):
        print("1.24.5")
        return 0
    sys.stdout.write(BANNER.format(hbrt=mode.get("hbrt", "3.15.55")))
    program = Path(flags["model_file"])
    if program.parts[-2:] != ("basic", "sample.bin") and b"hbm#" not in program.read_bytes():
        print(f"[E][DNN] {program}: HB_DNN_INVALID_MODEL, error code:-6000002")
        return 1
    with (BOARD / "calls").open("a") as calls:
        calls.write(f"{verb} {hashlib.sha256(program.read_bytes()).hexdigest()}\n")
    if verb == mode.get("at", verb):
        if mode.get("exec") == "hang":
            (BOARD / "pid").write_text(f"{os.getpid()} {os.getppid()}")
            time.sleep(600)
        if mode.get("exec") == "drop":
            (BOARD / "pid").write_text(str(os.getpid()))
            from drop_connection import drop

            drop()
        if mode.get("exec") == "incompatible":
            print(f"[E][DNN]hbDNN load {program} failed, error code:-6000014")
            return 255
        if mode.get("exec") == "fail":
            print("Segmentation fault (core dumped)")
            return 139
    return {"perf": perf, "model_info": model_info, "infer": infer}[verb](flags, mode)


def noisy(text: str) -> str:
    text = GLOG + text.replace("FPS\n", "FPS\x1b[0m\n" + GLOG).replace("Perf result", "\x1b[1;32mPerf result")
    return text.replace("\n", "\r\n")


def perf(flags: dict[str, str], mode: dict[str, str]) -> int:
    if flags["core_id"] != "0" or int(flags["frame_count"]) < 1:
        print("wrong flags")
        return 1
    if mode.get("exec") == "silent":
        print("Load model to DDR cost 24.163ms.")
        return 0
    name = {"1": "perf_1.txt", "4": "perf_4.txt"}[flags["thread_num"]]
    text = (CAPTURES / name).read_text()
    sys.stdout.write(noisy(text) if mode.get("exec") == "noise" else text)
    if mode.get("exec") != "noise":
        Path(flags["profile_path"], "profiler.log").write_text((CAPTURES / "profiler.log").read_text())
    return 0


def session():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(BOARD / "model.onnx"), options, providers=["CPUExecutionProvider"])


SCALES = 2.0 ** -np.arange(10, 26)  # short in decimal, so that six printed digits hold them


def model_info(flags: dict[str, str], mode: dict[str, str]) -> int:
    if flags["model_file"].endswith("basic/sample.bin"):
        return 0
    net = session()
    size = net.get_modelmeta().custom_metadata_map["edge.size"]
    height, width = (int(side) for side in size.split("x"))
    count = math.prod(net.get_outputs()[0].shape)
    text = (
        f"Load model to DDR cost 379.393ms.\nThis model file has 1 model:\n[tiny]\n"
        f"{LINE}\n[model name]: tiny\n\n"
        f"input[0]: \nname: nv12\ninput source: HB_DNN_INPUT_FROM_PYRAMID\n"
        f"valid shape: (1,3,{height},{width},)\n"
        f"aligned shape: (1,3,{height},{width},)\naligned byte size: {height * width * 3 // 2}\n"
        f"tensor type: {mode.get('input', 'HB_DNN_IMG_TYPE_NV12')}\ntensor layout: HB_DNN_LAYOUT_NCHW\n"
        "quanti type: NONE\nstride: (0,0,0,0,)\n\n"
    )
    if mode.get("output") == "integer":
        scales = "".join(f"{scale:.6g}," for scale in SCALES[:count])
        text += (
            f"output[0]: \nname: scores\nvalid shape: (1,1,1,{count},)\naligned shape: (1,1,1,16,)\n"
            "aligned byte size: 64\ntensor type: HB_DNN_TENSOR_TYPE_S32\ntensor layout: HB_DNN_LAYOUT_NHWC\n"
            f"quanti type: SCALE\nstride: (64,64,64,4,)\nscale data: {scales}\nquantizeAxis: 3\n\n"
        )
    else:
        text += (
            f"output[0]: \nname: scores\nvalid shape: (1,{count},1,1,)\naligned shape: (1,{count},1,1,)\n"
            f"aligned byte size: {count * 4}\ntensor type: HB_DNN_TENSOR_TYPE_F32\n"
            f"tensor layout: HB_DNN_LAYOUT_NCHW\nquanti type: NONE\nstride: ({count * 4},4,4,4,)\n\n"
        )
    sys.stdout.write(noisy(text) if mode.get("exec") == "noise" else text)
    return 0


def infer(flags: dict[str, str], mode: dict[str, str]) -> int:
    frame = np.fromfile(flags["input_file"], np.uint8)
    if mode.get("exec") == "busy":
        count = BOARD / "busy"
        tries = int(count.read_text()) if count.exists() else 0
        count.write_text(str(tries + 1))
        if tries < int(mode["times"]):
            print("[E][DNN]hbDNNInfer failed, error code:-6000006")
            return 1
    net = session()
    wanted = net.get_inputs()[0].shape[0]
    if frame.size != wanted:
        print(f"[E] input file has {frame.size} bytes, {wanted} needed, error code:-6000001")
        return 1
    scores = net.run(None, {net.get_inputs()[0].name: frame})[0]
    if mode.get("exec") == "other":
        scores = np.ascontiguousarray(scores[:, ::-1])
    print(f"\n{'-' * 21}Frame 0 begin{'-' * 21}\nInfer time: 1.464 ms\n{'-' * 21}Frame 0 end{'-' * 21}")
    target = Path(flags["dump_path"], "model_infer_output_0_scores.bin")
    if flags.get("enable_dump") != "true" or flags.get("dump_format") != "bin" or mode.get("exec") == "nodump":
        return 0
    if mode.get("output") == "integer":
        padded = np.full((1, 1, 1, 16), -77, "<i4")
        padded[0, 0, 0, : scores.size] = np.rint(scores.ravel() / SCALES[: scores.size])
        target.write_bytes(padded.tobytes())
    else:
        target.write_bytes(scores.astype("<f4").tobytes())
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.exit(code)
