"""What a search holds plain int8 to be, and that no recipe of it moves an operator back to the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edge import tune as edge_tune
from edge.compiler.node_names import moves
from edge.errors import GateError
from edge.files import sha256_of
from edge.specs import Calibration, Precision, Preprocess, load_model, load_precision
from edge.specs.schema import Compiler
from edge.tune import spaces
from edge.tune.trials import Costs, described
from tests.conftest import Run

ITEM = "set_Softmax_input_int16"


def plain_of(model: str) -> Precision:
    return spaces.baseline(load_precision("int8"), load_precision(load_model(model).precision))


def test_a_model_whose_recipe_types_no_operator_starts_from_int8_itself() -> None:
    int8 = load_precision("int8")
    assert plain_of("CSPDarkNet53") == int8
    # A family's recipe sets nodes and thresholds: these are what the search is for.
    assert plain_of("ConvNeXt_atto") == int8
    assert described(spaces.recipe("m", int8, int8.calibration, None)) == described(int8)


def test_int8_of_a_nextvit_has_its_softmax_on_the_bpu() -> None:
    plain = plain_of("NextViT_small_224")
    assert plain.calibration == Calibration("default", optimization=(ITEM,))
    assert moves(plain, "/features.3/attn/Softmax", "Softmax")
    assert not moves(load_precision("int8"), "/features.3/attn/Softmax", "Softmax")


@pytest.mark.parametrize("method", spaces.CALIBRATIONS)
def test_every_calibration_keeps_the_operators_types(method: str) -> None:
    own, plain = spaces.CALIBRATIONS[method], plain_of("NextViT_small_224")
    found = spaces.recipe("m", plain, own, None)
    assert found.calibration.optimization == (*own.optimization, ITEM)
    assert (found.calibration.method, found.compiler) == (own.method, plain.compiler)
    # Once is enough, whatever is built on what.
    assert spaces.recipe("m", found, found.calibration, None).calibration == found.calibration


def test_only_types_of_operators_are_kept() -> None:
    items = ("asymmetric", "set_model_output_int16", "set_all_nodes_int16", "set_MatMul_output_int8", ITEM)
    own = Precision("own", calibration=Calibration("kl", optimization=items))
    assert spaces.operator_items(own) == ("set_MatMul_output_int8", ITEM)
    assert spaces.baseline(load_precision("int8"), own).calibration.method == "default"


def test_the_cost_of_16_bits_is_that_of_a_program_with_these_types(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    image = helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 32, 32])
    scores = helper.make_tensor_value_info("prob", TensorProto.FLOAT, [1, 3, 32, 32])
    softmax = helper.make_node("Softmax", ["data"], ["prob"], name="/Softmax", axis=1)
    graph = helper.make_graph([softmax], "net", [image], [scores])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), path)
    given: dict[str, Any] = {
        "toolchain": None,
        "onnx": path,
        "sha256": sha256_of(path),
        "calibration": tmp_path / "calibration",
        "preprocess": Preprocess(crop=(32, 32), resize=32),
        "compiler": Compiler(),
        "journal": None,
        "folder": tmp_path,
    }
    text = Costs(**given, optimization=(ITEM,))._yaml({})
    assert (ITEM in text, "calibration_type: 'skip'" in text) == (True, True)
    assert ITEM not in Costs(**given)._yaml({})


def test_the_command_searches_from_there(edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Precision] = []

    def search(request: Any, *_rest: Any) -> None:
        seen.append(request.precision)
        raise GateError("enough")

    monkeypatch.setattr(edge_tune, "tune", search)
    code, _, err = edge("tune", "NextViT_small_224", "--level", "O1", "--build-dir", str(tmp_path))
    assert (code, ITEM in err) == (1, True)
    assert seen[0].calibration.optimization == (ITEM,)
    assert seen[0].compiler.optimize_level == "O1"
