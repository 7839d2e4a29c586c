"""Static latency of one network in three forms: as exported, after default onnxsim, after ``edge simplify``.

    python benchmarks/simplify_guard.py [MODEL] [--onnx FILE] [--level O3]
    python benchmarks/simplify_guard.py NextViT_small_224 --level O1 --optimization set_Softmax_input_int16

Takes three compiles. Calibration images are random: they set scales, not speed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxsim

from edge.compiler.run import CompileResult, makertbin
from edge.graph.files import image_input
from edge.prepare.simplify import simplify
from edge.progress import Silent
from edge.toolchain.find import find

YAML = """\
model_parameters:
  onnx_model: './model.onnx'
  march: 'bayes-e'
  working_dir: './out'
  output_model_file_prefix: 'model'
input_parameters:
  input_type_rt: 'nv12'
  input_type_train: 'rgb'
  input_layout_train: 'NCHW'
  norm_type: 'data_mean_and_scale'
  mean_value: '123.675 116.28 103.53'
  scale_value: '0.01712475 0.017507 0.01742919'
calibration_parameters:
  cal_data_dir: './images'
  cal_data_type: 'float32'
  calibration_type: 'default'
{optimization}compiler_parameters:
  compile_mode: 'latency'
  debug: False
  optimize_level: '{level}'
  jobs: 2
"""


def compiled(model: Path, images: Path, level: str, optimization: str, scratch: Path) -> CompileResult:
    """Compile one form."""
    folder = scratch / f"compile_{model.stem}"
    folder.mkdir()
    yaml = folder / "model.yaml"
    line = f"  optimization: '{optimization}'\n" if optimization else ""
    yaml.write_text(YAML.format(level=level, optimization=line))
    out = folder / "results"
    out.mkdir()
    return makertbin(
        find(),
        yaml=yaml,
        files={"model.onnx": model, "images": images},
        out=out,
        prefix="model",
        working_dir="out",
        key=hashlib.sha256(model.read_bytes() + f"{level} {optimization}".encode()).hexdigest(),
    )


def exported(name: str, scratch: Path) -> Path:
    """Export a zoo model with random weights."""
    argv = ["export", name, "--weights", "random", "--build-dir", str(scratch / "build")]
    edge = Path(sys.executable).with_name("edge")
    subprocess.run([str(edge), *argv], check=True, stdout=subprocess.DEVNULL)
    return next((scratch / "build").rglob("export/*.onnx"))


def main() -> None:
    """Compile three times and print one line per form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="ConvNeXt_atto")
    parser.add_argument("--onnx", type=Path, help="an NCHW ONNX file, instead of a zoo model")
    parser.add_argument("--level", default="O3")
    parser.add_argument("--optimization", default="", help="of the compiler's calibration parameters")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        source = arguments.onnx or exported(arguments.model, scratch)
        plain = onnx.load(source)
        _, shape = image_input(plain)
        images = scratch / "images"
        images.mkdir()
        rng = np.random.default_rng(0)
        for index in range(20):
            rng.uniform(0, 255, shape).astype(np.float32).tofile(images / f"{index:03}.bin")

        forms = {"exported": scratch / "exported.onnx", "onnxsim": scratch / "onnxsim.onnx"}
        onnx.save(plain, forms["exported"])
        onnx.save(onnxsim.simplify(plain)[0], forms["onnxsim"])
        made = scratch / "made"
        made.mkdir()
        result = simplify(model=source, out=made, name="edge", reporter=Silent())
        forms["edge"] = made / result.onnx
        print(f"onnxsim {result.onnxsim}, level {arguments.level}; edge ships: {result.form}")
        print("form       nodes  BPU nodes        us     FPS   DDR bytes  us / exported")
        first = 0.0
        for form, path in forms.items():
            done = compiled(path, images, arguments.level, arguments.optimization, scratch)
            if done.static is None:
                raise SystemExit(f"{form}: the compiler gave no static figures")
            first = first or done.static.latency_us
            print(
                f"{form:<9} {len(onnx.load(path).graph.node):>6} {done.bpu:>10} "
                f"{done.static.latency_us:>9.1f} {done.static.fps:>7.2f} {done.static.ddr_bytes:>11,} "
                f"{done.static.latency_us / first:>14.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
