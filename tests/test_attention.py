"""NextViT's and CSPDarkNet53's operators through the real compiler: placement, accuracy, portable bits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.compiler.logs import cpu_inside
from edge.compiler.node_names import SOFTMAX_RECIPE, left_inside, moves
from edge.compiler.render import render
from edge.compiler.run import CompileResult, makertbin
from edge.images.preprocess import network_input_from_nv12, rgb_to_nv12
from edge.prepare.simplify import simplify
from edge.simulate.portable.translate import translate
from edge.simulate.vendor import QuantizedPool
from edge.specs import (
    Calibration,
    ModelSpec,
    NodePrecision,
    Precision,
    Preprocess,
    Sources,
    available_models,
    load_model,
    load_precision,
)
from edge.toolchain.found import Toolchain
from tests.attention_net import network, train
from tests.trained_net import MEAN, SIDE, STD, image

PRE = Preprocess((SIDE, SIDE), SIDE, "bilinear", "rgb", MEAN, STD)
SOFTMAX = "/share/Softmax"


def test_a_recipe_that_names_an_operator_moves_each_of_its_nodes() -> None:
    plain, moved = load_precision("int8"), load_precision(SOFTMAX_RECIPE)
    rows = [("/a/Softmax", "Softmax"), ("/b/Softmax", "Softmax"), ("/c/Foo", "Foo")]
    assert left_inside(plain, rows) == ("/a/Softmax", "/b/Softmax", "/c/Foo")
    assert left_inside(moved, rows) == ("/c/Foo",)


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        (Precision("x", nodes={"/a": NodePrecision(on="BPU")}), True),
        (Precision("x", nodes={"/a": NodePrecision(inputs="int16")}), True),
        (Precision("x", nodes={"/a": NodePrecision(outputs="int16")}), False),
        (Precision("x", Calibration(optimization=("quantize_softmax",))), True),
        (Precision("x", Calibration(optimization=("set_Softmax_output_int16",))), False),
        (Precision("x", Calibration(optimization=("set_Add_input_int16",))), False),
        (
            Precision(
                "x",
                Calibration(optimization=("set_Softmax_input_int16",)),
                {"/a": NodePrecision(on="CPU", inputs="int16")},
            ),
            False,
        ),
    ],
)
def test_what_moves_a_softmax(precision: Precision, wanted: bool) -> None:
    assert moves(precision, "/a", "Softmax") is wanted


def test_every_nextvit_of_the_zoo_has_the_recipe() -> None:
    family = [name for name in available_models() if name.startswith("NextViT")]
    assert family
    assert {load_model(name).precision for name in family} == {SOFTMAX_RECIPE}


# --- with the real compiler ---


@frozen
class Made:
    """One compiled variant."""

    folder: Path
    result: CompileResult


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The simplified network, and a folder of calibration images."""
    folder = tmp_path_factory.mktemp("attention")
    onnx.save(network(train()), folder / "net.onnx")
    assert simplify(model=folder / "net.onnx", out=folder, name="net_bpu").form == "simplified"
    images = folder / "rgb_f32"
    images.mkdir()
    rng = np.random.default_rng(1)
    for index in range(24):
        data = image(index % 8, rng).astype(np.float32).transpose(2, 0, 1)
        (images / f"{index:03d}.bin").write_bytes(np.ascontiguousarray(data).tobytes())
    return folder / "net_bpu.onnx", images


@pytest.fixture(scope="module")
def made(trained: tuple[Path, Path], toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """The network compiled with Softmax on the CPU and, in int8 and int16, on the BPU."""
    model, images = trained
    found = {}
    for recipe in ("int8", "int8_softmax_int8", SOFTMAX_RECIPE):
        out = tmp_path_factory.mktemp(recipe)
        precision = load_precision(recipe)
        # One method for all, so that Softmax alone differs.
        precision = evolve(
            precision,
            calibration=evolve(precision.calibration, method="max", max_percentile=0.9999),
            compiler=evolve(precision.compiler, optimize_level="O0"),
        )
        files = {"m.onnx": model, "c_f32": images}
        spec = ModelSpec("net", Sources(), PRE)
        yaml = render(
            spec=spec, precision=precision, prefix="net", onnx_model="m.onnx", cal_data_dir="c_f32",
            working_dir="w", out=out, model=model,
        )  # fmt: skip
        key = hashlib.sha256(recipe.encode()).hexdigest()
        result = makertbin(
            toolchain, yaml=out / yaml.yaml, files=files, out=out, prefix="net", working_dir="w", key=key
        )
        translate(quantized=out / "net_quantized_model.onnx", prefix="net", out=out)
        found[recipe] = Made(out, result)
    return found


def session_of(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def scores(session: onnxruntime.InferenceSession, value: NDArray[np.generic]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: value})[0].reshape(-1)
    return result


@pytest.mark.compiler
def test_softmax_leaves_the_cpu_and_the_program_is_one_part(made: dict[str, Made]) -> None:
    inside = {name: [row.name for row in cpu_inside(one.result.nodes)] for name, one in made.items()}
    assert inside == {"int8": [SOFTMAX], "int8_softmax_int8": [], SOFTMAX_RECIPE: []}
    for name, kind in (("int8_softmax_int8", "int8"), (SOFTMAX_RECIPE, "int16")):
        parts = {row.type: row.dtype for row in made[name].result.nodes if row.name.startswith(SOFTMAX)}
        assert len(parts) >= 5
        assert set(parts.values()) == {kind}
        assert {row.subgraph for row in made[name].result.nodes if row.on == "BPU"} == {"id(0)"}


@pytest.mark.compiler
def test_the_portable_models_have_the_vendors_bits(made: dict[str, Made], toolchain: Toolchain) -> None:
    rng = np.random.default_rng(2)
    images = [image(index % 8, rng) for index in range(6)]
    for one in made.values():
        portable = session_of(one.folder / "net_portable_int8.onnx")
        with QuantizedPool(toolchain, one.folder / "net_quantized_model.onnx", 1) as vendors:
            for rgb in images:
                own = scores(portable, rgb_to_nv12(rgb).reshape(-1))
                np.testing.assert_array_equal(own, vendors(rgb))


@pytest.mark.compiler
def test_int16_softmax_keeps_the_answers_of_the_float_network(
    trained: tuple[Path, Path], made: dict[str, Made]
) -> None:
    rng = np.random.default_rng(3)
    frames = [rgb_to_nv12(image(index % 8, rng)) for index in range(160)]
    plain = session_of(trained[0])
    wanted = np.stack([scores(plain, network_input_from_nv12(frame, PRE)) for frame in frames])
    agreement, cosine = {}, {}
    for name, one in made.items():
        session = session_of(one.folder / "net_portable_int8.onnx")
        seen = np.stack([scores(session, frame.reshape(-1)) for frame in frames])
        agreement[name] = float((seen.argmax(1) == wanted.argmax(1)).mean())
        lengths = np.linalg.norm(seen, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine[name] = float(((seen * wanted).sum(1) / lengths).mean())
    assert agreement[SOFTMAX_RECIPE] >= 0.9
    assert agreement[SOFTMAX_RECIPE] >= agreement["int8"] - 0.0125  # two images
    # int16 costs nothing against the float Softmax of the CPU; int8 is behind both.
    assert 1 - cosine[SOFTMAX_RECIPE] < 1.1 * (1 - cosine["int8"])
    assert cosine["int8_softmax_int8"] < cosine[SOFTMAX_RECIPE]
