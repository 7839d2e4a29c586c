"""Which activations get 16 bits within the time that a recipe grants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from edge.progress import Silent
from edge.refine.bits import GROUPED, OTHER, PRODUCT, Program, Wide, choose, shares
from tests.test_fakequant import calibration, model, opened

GROUPS = [[0, 1], [2], [3]]
ENDS = [frozenset({"a", "b"}), frozenset({"b", "c"}), frozenset({"c", "d"})]
MISSED = {0: 1.0, 1: 0.0, 2: 8.0, 3: 0.1}  # damage by a quantizer at 8 bits
TIME = {0: 10.0, 1: 0.0, 2: 40.0, 3: 20.0}  # microseconds that it takes at 16
COSTS: Mapping[str, list[float]] = {PRODUCT: [1, 4, 2]}  # shares as the times


def damage(wide: Wide) -> float:
    return 5 + sum(value for i, value in MISSED.items() if i not in wide)


def compiled(wide: Wide) -> Program:
    return Program(100 + sum(TIME[i] for i in wide), frozenset())


def chosen(within: float) -> Wide:
    return choose(GROUPS, ENDS, COSTS, damage, compiled, within, Silent())


def test_what_is_missed_least_for_its_time_loses_16_bits_first() -> None:
    assert chosen(2.0) == {0, 1, 2, 3}
    assert chosen(1.6) == {0, 1, 2}
    assert chosen(1.45) == {2}
    assert chosen(1.2) == frozenset()
    assert compiled(chosen(1.6)).latency_us <= 160


def test_all_that_reach_a_node_which_goes_to_the_cpu_stay_at_8_bits() -> None:
    def program(wide: Wide) -> Program:
        return Program(compiled(wide).latency_us, frozenset({"d", "always"} if 3 in wide else {"always"}))

    assert choose(GROUPS, ENDS, COSTS, damage, program, 2.0, Silent()) == {0, 1, 2}


def test_what_the_compiler_leaves_at_8_bits_is_not_told_16() -> None:
    def program(wide: Wide) -> Program:
        return Program(compiled(wide).latency_us, frozenset(), wide & {0, 2})

    assert choose(GROUPS, ENDS, COSTS, damage, program, 2.0, Silent()) == {3}


def test_shares_are_products_or_elements(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.random((6, 3, 3, 3), np.float32), "v": rng.random((6, 1, 1, 1), np.float32)}

    def nodes(rounded: bool) -> list[onnx.NodeProto]:
        made = [
            helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 4),
            helper.make_node("Conv", ["aq" if rounded else "a", "v"], ["b"], "deep", group=6),
            helper.make_node("Relu", ["bq" if rounded else "b"], ["y"], "last"),
        ]
        return (
            made[:1]
            + [calibration("qa", "a", "aq", "int8", [1.0])] * rounded
            + made[1:2]
            + ([calibration("qb", "b", "bq", "int8", [1.0])] * rounded + made[2:])
        )

    net = opened(model(nodes(True), weights), tmp_path)
    (tmp_path / "float").mkdir()
    onnx.save(model(nodes(False), weights), tmp_path / "float" / "net.onnx")
    named = {item.tensor: i for i, item in enumerate(net.quantizers)}
    found = shares(net, [[named["a"]], [named["b"]]], tmp_path / "float" / "net.onnx")
    elements = 6 * 4 * 4
    assert set(found) == {GROUPED, OTHER}
    assert found[GROUPED][1] == 0
    assert found[GROUPED][0] >= elements  # one multiplication each
    assert found[OTHER] == [0, elements]
