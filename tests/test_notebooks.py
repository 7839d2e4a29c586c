"""The notebooks come from their source, run here and on the board, and their images show what they say."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from edge.images.demo import draw
from edge.images.preprocess import decode
from edge.pipeline.bundle import bundle
from edge.runtime import load
from edge.runtime.annotated import ROW, annotate
from tests.fabricated import NAMES, make_build, save_photo
from tests.fake_board import FOLDER as FAKES
from tests.fake_board import board_build

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
MODELS = ("ConvNeXt_atto", "ConvNeXt_femto", "ConvNeXt_pico", "ConvNeXt_nano")
# The order that users of the vendor's notebooks know.
STEPS = (
    "1. Memory",
    "2. Imports",
    "3. Load the program",
    "4. Image to NV12",
    "5. Forward",
    "6. Softmax and label",
    "7. The image with its labels",
    "8. Speed",
)
HRT = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
cat <<'END'
I0903 08:45:22.591094 626414 main.cpp:233] noise
Running condition:
  Thread number is: 4
  Frame count   is: 200
Perf result:
  Average    latency    is: 2.902294 ms
  Frame      rate       is: 1356.254026 FPS
END
"""


class Ran:
    """An executed notebook: what it printed, cell by cell, and the images it made."""

    def __init__(self, notebook: nbformat.NotebookNode) -> None:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        self.text = "".join(output.text for output in outputs if output.output_type == "stream")
        self.images = [
            decode(base64.b64decode(output.data["image/png"]))
            for output in outputs
            if "image/png" in output.get("data", {})
        ]


def run(path: Path, *, env: Mapping[str, str] | None = None, edit: Callable[[str], str] = lambda text: text) -> Ran:
    """Execute a notebook where it lies, in this interpreter."""
    notebook = nbformat.reads(edit(path.read_text(encoding="utf-8")), 4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}})
    client.execute(env={**os.environ, **(env or {})})
    return Ran(notebook)


def placed(folder: Path, name: str) -> Path:
    """Put a notebook where it lies in a checkout, beside ``build``."""
    path = folder / "notebooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((NOTEBOOKS / name).read_bytes())
    return path


def test_the_notebooks_are_what_their_source_gives(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_notebooks.py"
    for _ in range(2):
        subprocess.run([sys.executable, script, tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in NOTEBOOKS.glob("*.ipynb")}, "run scripts/make_notebooks.py"
    assert set(made) == {f"test_{model}.ipynb" for model in MODELS} | {"compare_float_quantized.ipynb"}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    if path.stem.startswith("test_"):
        titles = [cell.source.splitlines()[0] for cell in notebook.cells if cell.source.startswith("## ")]
        assert titles == [f"## {step}" for step in STEPS]


@pytest.mark.parametrize("model", MODELS)
def test_a_models_notebook_runs_on_a_pc(tmp_path: Path, model: str) -> None:
    build = make_build(tmp_path / "build" / model)
    ran = run(placed(tmp_path, f"test_{model}.ipynb"))
    assert f"{model} runs on portable (onnxruntime" in ran.text
    assert "MemTotal" in ran.text
    assert "BPU           none on this machine" in ran.text
    assert "not on hbm_runtime: " in ran.text
    assert "this is not the board's speed" in ran.text
    assert "1 thread " in ran.text
    assert "4 threads" in ran.text

    rgb, _ = draw("test", 0)
    with load(build, "portable") as net:
        ranked = net.classify(rgb)
    for label, chance in ranked:
        assert f"{100 * chance:6.2f} %  {label}" in ran.text
    seen, labelled = ran.images
    assert seen.shape == (64, 64, 3)
    assert np.ptp(seen, axis=(0, 1)).min() > 50
    # What the network sees is the image's middle, at another size.
    middle = rgb[13:211, 13:211].reshape(-1, 3).mean(axis=0)
    assert np.abs(seen.reshape(-1, 3).mean(axis=0) - middle).max() < 12
    assert np.array_equal(labelled, annotate(rgb, ranked))
    bare = annotate(rgb, [("", chance) for _, chance in ranked])
    assert np.array_equal(labelled[: -ROW * len(ranked)], bare[: -ROW * len(ranked)])
    for row in range(1, len(ranked) + 1):
        ends = slice(-ROW * row, labelled.shape[0] - ROW * (row - 1))
        assert (labelled[ends] != bare[ends]).any(axis=-1).sum() > 100  # letters


def test_it_runs_inside_its_bundle_with_a_image_of_the_users(tmp_path: Path) -> None:
    made = bundle(make_build(tmp_path / "build" / "my_net"), tmp_path / "bundle").path
    photo = save_photo(made / "photo.png", 9)
    ran = run(made / "test_my_net.ipynb", edit=lambda text: text.replace("IMAGE = None", "IMAGE = 'photo.png'"))
    assert "my_net runs on portable" in ran.text
    assert "160x120 pixels" in ran.text
    with load(made, "portable") as net:
        assert np.array_equal(ran.images[1], annotate(decode(photo), net.classify(photo)))


def test_it_runs_unchanged_on_a_board(tmp_path: Path) -> None:
    """With the vendor's runtime and its measuring tool, here as fakes."""
    build = board_build(tmp_path / "build" / "ConvNeXt_atto")
    tool = tmp_path / "bin" / "hrt_model_exec"
    tool.parent.mkdir()
    tool.write_text(HRT)
    tool.chmod(0o755)
    env = {"PYTHONPATH": str(FAKES), "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}
    ran = run(placed(tmp_path, "test_ConvNeXt_atto.ipynb"), env=env)
    assert "ConvNeXt_atto runs on hbm_runtime" in ran.text
    assert "not the board's speed" not in ran.text
    assert "Frame rate is: 1356.254026 FPS" in ran.text
    assert "noise" not in ran.text
    program = f"../build/ConvNeXt_atto/{next(build.glob('*.bin')).name}"
    assert (tool.parent / "asked").read_text().splitlines() == [
        f"perf --model_file {program} --frame_count 200 --thread_num {threads}" for threads in (1, 4)
    ]
    assert len(ran.images) == 2


def test_without_a_build_it_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    with pytest.raises(CellExecutionError, match="edge build ConvNeXt_nano"):
        run(placed(tmp_path, "test_ConvNeXt_nano.ipynb"))


def test_float_and_quantized_are_compared(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build" / "ConvNeXt_atto")
    ran = run(
        placed(tmp_path, "compare_float_quantized.ipynb"), edit=lambda text: text.replace("COUNT = 100", "COUNT = 40")
    )
    told = dict(line.split("  ", 1) for line in ran.text.splitlines() if "  " in line)
    told = {key: value.strip() for key, value in told.items()}
    assert told["images"] == "40"
    assert 50 < float(told["same Top-1 answer"].split()[0]) <= 100
    assert told["cosine of the scores"].startswith("0.99")
    assert 0 < float(told["largest difference"].split()[0]) < 0.5
    assert told["Top-1 of the labels"].startswith("not measured")
    assert f"{build.name}.onnx in onnxruntime" in ran.text
    scatter, histograms, worst = ran.images
    for shown in (scatter, histograms, worst):
        assert shown.shape[0] > 250
        assert shown.shape[1] > 400
        paper = (shown == 255).all(axis=-1).mean()
        assert 0.1 < paper < 0.98  # neither blank nor painted over
    # The dots of the scatter are blue, and lie about the diagonal: none in the other two corners.
    blue = (scatter[..., 2].astype(int) - scatter[..., 0]) > 60
    height, width = blue.shape
    assert blue.sum() > 200
    assert not blue[: height // 3, : width // 3].any()
    assert not blue[-height // 3 :, -width // 3 :].any()
    assert len(np.unique(worst.reshape(-1, 3), axis=0)) > 1000  # photographs


def test_labelled_images_give_top1_of_both(tmp_path: Path) -> None:
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    for index in range(12):
        save_photo(tmp_path / "notebooks" / "photos" / NAMES[index % 4] / f"{index}.png", index)
    ran = run(
        placed(tmp_path, "compare_float_quantized.ipynb"),
        edit=lambda text: text.replace('IMAGES = \\"demo:test\\"', 'IMAGES = \\"photos\\"'),
    )
    assert "Top-1 float" in ran.text
    assert "Top-1 quantized" in ran.text
    assert "12" in ran.text


def test_a_bundle_has_no_float_model_to_compare_with(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build" / "ConvNeXt_atto")
    (build / "ConvNeXt_atto.onnx").unlink()
    with pytest.raises(CellExecutionError, match="a bundle has no float ONNX, use the build folder"):
        run(placed(tmp_path, "compare_float_quantized.ipynb"))


def test_missing_matplotlib_is_told(tmp_path: Path) -> None:
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    block = tmp_path / "block" / "matplotlib"
    block.mkdir(parents=True)
    (block / "__init__.py").write_text("raise ImportError('not here')")
    with pytest.raises(CellExecutionError, match="pip install matplotlib"):
        run(
            placed(tmp_path, "compare_float_quantized.ipynb"),
            env={"PYTHONPATH": str(block.parent), "MPLBACKEND": "agg"},
        )


def test_a_blank_image_would_be_seen(tmp_path: Path) -> None:
    """The comparison above fails on a notebook that draws no letters."""
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    ran = run(
        placed(tmp_path, "test_ConvNeXt_atto.ipynb"),
        edit=lambda text: text.replace("annotate(rgb, ranked,", "annotate(rgb, [(str(), p) for _, p in ranked],"),
    )
    rgb, _ = draw("test", 0)
    with load(tmp_path / "build" / "ConvNeXt_atto", "portable") as net:
        assert not np.array_equal(ran.images[1], annotate(rgb, net.classify(rgb)))
