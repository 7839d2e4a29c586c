"""The pattern counts are what the compiler fuses, no more and no less."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edge.prepare.patterns import PATTERNS, count_patterns
from edge.toolchain.found import Toolchain
from tests.pattern_nets import CASES, net

# pattern -> the operator that stands in the compiler's optimized graph for it
FUSED = {
    "gelu": "HzGelu",
    "hardswish": "HzHardSwish",
    "swish": "HzSwish",
    "mish": "HzMish",
    "rsqrt": "HzRsqrt",
    "softmax": "Softmax",
    "depth_to_space": "DepthToSpace",
    "space_to_depth": "SpaceToDepth",
    "channel_shuffle": "HzChannelShuffle",
}


@pytest.mark.parametrize("name", CASES)
def test_counts_each_pattern_and_no_near_miss(name: str) -> None:
    body, fused, shape = CASES[name]
    found = count_patterns(net(body, shape))
    assert list(found) == list(PATTERNS)
    assert {pattern: n for pattern, n in found.items() if n} == fused


def test_every_pattern_has_a_net_with_it() -> None:
    assert {pattern for _, fused, _ in CASES.values() for pattern in fused} == set(PATTERNS)


def test_a_value_that_is_an_output_is_no_inner_value() -> None:
    model = net(CASES["gelu"][0])
    assert count_patterns(model)["gelu"] == 1
    model.graph.output.append(onnx.helper.make_tensor_value_info("m", onnx.TensorProto.FLOAT, [1, 8, 8, 8]))
    assert count_patterns(model)["gelu"] == 0


def test_clip_limits_may_be_attributes_of_opset_10() -> None:
    body = "a=Add(x,three); c=Clip<min=0.0,max=6.0>(a); m=Mul(x,c); y=Div(m,six)"
    assert count_patterns(net(body, opset=10))["hardswish"] == 1


@pytest.mark.compiler
def test_the_compiler_fuses_what_is_counted(toolchain: Toolchain, tmp_path: Path) -> None:
    names = list(CASES)
    for index, name in enumerate(names):
        body, _, shape = CASES[name]
        onnx.save(net(body, shape), tmp_path / f"{index:03}.onnx")
    script = Path(__file__).parent / "fakes" / "vendor_fusions.py"
    lines: list[str] = []
    done = toolchain.run_python(
        [str(script), str(tmp_path)], cwd=tmp_path, timeout=300, on_line=lines.append, mounts=[script.parent, tmp_path]
    )
    assert done.returncode == 0, lines[-5:]
    rows = dict(json.loads(line) for line in lines if line.startswith("["))
    assert len(rows) == len(names)
    for index, name in enumerate(names):
        operators = rows[f"{index:03}"]
        counted = count_patterns(net(CASES[name][0], CASES[name][2]))
        fused = {pattern: operators.get(kind, 0) for pattern, kind in FUSED.items()}
        assert fused == {pattern: counted[pattern] for pattern in FUSED}, name
