"""Compiled programs in the simulator: what a .bin holds, the CPU nodes behind the BPU, and every failure."""

from __future__ import annotations

import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.compiler.run import makertbin
from edge.errors import BackendError, BackendMissing, ModelFileError, ToolchainError, ToolchainMissing
from edge.runtime import load
from edge.runtime.backends import hbdk_sim, quantized
from edge.runtime.program import Program
from edge.simulate import binfile
from edge.simulate.binfile import BinNode, BinProgram, BinValue, read_bin
from edge.simulate.hbdk import Simulator
from edge.simulate.tail import check_tail, run_tail
from edge.toolchain.found import Toolchain
from tests.test_toolchain_compiler import YAML

SIZE = (4, 32)
FRAME = np.arange(4 * 32 * 3 // 2, dtype=np.uint8)


def message(**changes: Any) -> Any:
    """A program as the compiler writes it: BPU, Dequantize, Reshape; one image in, two scores out."""
    model = binfile._message("Model")()
    graph = model.graphs.add(name="tiny")
    graph.node.add(name="part_0", op_type="BPU", input=["x"], output=["fc/int"])
    graph.node.add(name="deq", op_type="Dequantize", input=["fc/int", "scale"], output=["fc"])
    graph.node.add(name="flat", op_type="Reshape", input=["fc", "shape"], output=["y"])
    tensor = graph.initializer.add(name="scale", float_data=[0.5, 0.25])
    tensor.shape_type.elem_type, tensor.shape_type.dim[:] = 1, [2]
    tensor = graph.initializer.add(name="shape", int64_data=[0, -1])
    tensor.shape_type.elem_type, tensor.shape_type.dim[:] = 7, [2]
    graph.initializer.add(name=binfile.HBM, string_data=[b"what the BPU runs"]).shape_type.elem_type = 8
    for field, name, kind, shape in (
        ("input", "x", 3, (1, *SIZE, 3)),
        ("output", "y", 1, (1, 2)),
        ("value_info", "fc/int", 6, (1, 2, 1, 1)),
        ("value_info", "fc", 1, (1, 2, 1, 1)),
    ):
        value = getattr(graph, field).add(name=name)
        value.type.elem_type, value.type.dim[:] = kind, shape
    graph.input_type.append(changes.get("kind", 7))
    info = model.metadata_props_info.add()
    info.model_info.add(key="INPUT_SPACE_AND_RANGE", value=changes.get("range", "regular;"))
    return model


def save(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save(tmp_path / "tiny.bin", message())


GOOD = """out=$(echo "$@" | sed 's/.* -o \\([^ ]*\\) .*/\\1/')
[ "$(wc -c < $out/frame.yuv)" = 192 ] && [ "$(cat program.hbm)" = "what the BPU runs" ] || exit 3
file=$out/hbdk_output0_feature_fc_int_elem_int.txt
"""
WRITE = """printf '#operator: CONV\\n#shift = 0 \\n#valid_dim=1x2x1x1\\n#dynamic_n=1\\n-6 \\n 8\\n\\n' > $file
"""


@pytest.fixture
def tool(tmp_path: Path) -> Any:
    """Return a function that makes a compiler whose hbdk-sim is the given shell script."""

    def make(script: str) -> Toolchain:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / "hbdk-sim"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return Toolchain("path", str(folder), {"hbdk": "3.49.15"})

    return make


def test_what_a_bin_holds(tiny: Path) -> None:
    program = read_bin(tiny)
    assert (program.name, program.hbm) == ("tiny", b"what the BPU runs")
    assert program.inputs == (BinValue("x", (1, 4, 32, 3), "int8"),)
    assert program.input_kinds == ("NV12",)
    assert program.outputs == (BinValue("y", (1, 2), "float32"),)
    assert [node.op for node in program.nodes] == ["BPU", "Dequantize", "Reshape"]
    assert program.constants["scale"].tolist() == [0.5, 0.25]
    assert program.values["fc/int"].dtype == "int32"
    assert program.origin["INPUT_SPACE_AND_RANGE"] == "regular;"


def several(model: Any) -> None:
    model.graphs.add(name="other")


def without_hbm(model: Any) -> None:
    del model.graphs[0].initializer[2]


def without_bpu(model: Any) -> None:
    model.graphs[0].node[0].op_type = "Relu"


def short_constant(model: Any) -> None:
    del model.graphs[0].initializer[0].float_data[1]


def without_model(model: Any) -> None:
    del model.graphs[:]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (several, "2 models: tiny, other"),
        (without_hbm, "BPU"),
        (without_bpu, "BPU"),
        (short_constant, "constant"),
        (without_model, "no model"),
    ],
)
def test_a_broken_bin_is_told(tmp_path: Path, change: Any, says: str) -> None:
    model = message()
    change(model)
    with pytest.raises(ModelFileError, match=says):
        read_bin(save(tmp_path / "x.bin", model))


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"PK\x03\x04 a zip", b"fake program"])
def test_what_is_no_bin_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(ModelFileError, match=r"x\.bin is not a program"):
        read_bin(tmp_path / "x.bin")


def test_a_bin_that_is_cut_short_or_missing_is_told(tiny: Path) -> None:
    tiny.write_bytes(tiny.read_bytes()[:-20])
    with pytest.raises(ModelFileError, match="not a program"):
        read_bin(tiny)
    with pytest.raises(ModelFileError, match="can't be read"):
        read_bin(tiny.with_name("gone.bin"))


def program_of(*nodes: BinNode, dtype: str = "float32", **constants: Any) -> BinProgram:
    return BinProgram(
        name="p",
        inputs=(),
        input_kinds=(),
        outputs=(BinValue("y", (1, 2, 2), dtype),),
        nodes=nodes,
        constants={name: np.array(value) for name, value in constants.items()},
        values={},
        hbm=b"",
    )


INTEGERS = np.array([[[10, 20], [30, 40]]], np.int32)


def test_scales_lie_along_their_axis_and_zero_points_are_subtracted() -> None:
    for axis, expected in ((1, [10, 20, 60, 80]), (2, [10, 40, 30, 80])):
        node = BinNode("d", "Dequantize", ("q", "s"), ("y",), {"axis": axis})
        (y,) = run_tail(program_of(node, s=[1.0, 2.0]), {"q": INTEGERS})
        assert y.dtype == np.float32
        assert y.ravel().tolist() == expected
    node = BinNode("d", "Dequantize", ("q", "s", "z"), ("y",))
    (y,) = run_tail(program_of(node, s=[0.5], z=[2]), {"q": INTEGERS})
    assert y.ravel().tolist() == [4, 9, 14, 19]


def test_unknown_nodes_are_named_and_nothing_is_guessed() -> None:
    nodes = [BinNode("a", "Dequantize", ("q", "s"), ("d",)), BinNode("head", "ArgMax", ("d",), ("y",))]
    with pytest.raises(ToolchainError, match="ArgMax 'head'"):
        check_tail(program_of(*nodes))
    with pytest.raises(ToolchainError, match="does not dequantize y"):
        check_tail(program_of(dtype="int32"))
    inside = program_of(BinNode("sm", "Softmax", ("q",), ("y",), {"axis": 1}))
    with pytest.raises(ToolchainError, match=r"Softmax 'sm'.*axis 1"):
        run_tail(inside, {"q": INTEGERS})  # the rows behind the axis: which of two meanings is not known
    missing = program_of(BinNode("d", "Dequantize", ("q", "s"), ("y",)))
    with pytest.raises(ToolchainError, match="Dequantize 'd'"):
        run_tail(missing, {"q": INTEGERS})


def test_integers_and_outputs_of_a_frame(tool: Any, tiny: Path) -> None:
    with Simulator(tool(GOOD + WRITE), tiny) as simulator:
        (integers,) = simulator.integers(FRAME)
        assert integers.dtype == np.int32
        assert integers.tolist() == [[[[-6]], [[8]]]]
        assert simulator.outputs(FRAME)[0].tolist() == [[-3.0, 2.0]]
        with ThreadPoolExecutor(4) as pool:
            assert all(y[0][0, 1] == 2 for y in pool.map(simulator.outputs, [FRAME] * 12))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'hbrtErrorIllegalHBM'; echo bye; exit 1\n", "failed on tiny: hbrtErrorIllegalHBM"),
        ("kill -9 $$\n", "signal 9"),
        ("sleep 600\n", "stopped after 1 s"),
        ("exit 0\n", "0 files for output 0"),
        (GOOD + "head -c 3000 /dev/urandom > $file\n", "instead of output"),
        (GOOD + WRITE + "echo nan >> $file\n", "no integers for output"),
        (GOOD + WRITE + "echo 7 >> $file\n", "3 numbers"),
        (GOOD + WRITE + "sed -i 's/1x2x1x1/1x1x2x1/' $file\n", "shape"),
        (GOOD + WRITE + "sed -i 's/-6/-6000000000/' $file\n", "beyond int32"),
        (GOOD + WRITE + "sed -i 's/-6/-60000000000000000000/' $file\n", "no integers"),
        (GOOD + WRITE + "mv $file $out/hbdk_output0_feature_other_elem_int.txt\n", "instead of output fc/int"),
    ],
)
def test_a_failing_simulator_is_told_and_leaves_nothing(
    tool: Any, tiny: Path, script: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with Simulator(tool(script), tiny, timeout=1 if "sleep" in script else 60) as simulator:
        with pytest.raises(ToolchainError, match=says):
            simulator.integers(FRAME)
        (folder,) = (tmp_path / "tmp").iterdir()
        assert [path.name for path in folder.iterdir()] == ["program.hbm"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_wrong_frames_and_closed_simulators_are_refused(tool: Any, tiny: Path) -> None:
    simulator = Simulator(tool(GOOD + WRITE), tiny)
    for frame in (FRAME[:-1], FRAME.astype(np.float32)):
        with pytest.raises(ToolchainError, match="192 bytes"):
            simulator.integers(frame)
    simulator.close()
    simulator.close()
    with pytest.raises(ToolchainError, match="closed"):
        simulator.integers(FRAME)


def test_programs_that_it_cant_take_are_told(tool: Any, tmp_path: Path) -> None:
    toolchain = tool(GOOD + WRITE)
    with pytest.raises(ToolchainError, match="takes S8"):
        Simulator(toolchain, save(tmp_path / "x.bin", message(kind=1)))
    with pytest.raises(ToolchainError, match="no call of the BPU"):  # numbers need a Quantize before it
        Simulator(toolchain, save(tmp_path / "x.bin", message(kind=5)))
    model = message()
    model.graphs[0].node[0].input[:] = ["elsewhere"]
    with pytest.raises(ToolchainError, match="no call of the BPU"):
        Simulator(toolchain, save(tmp_path / "x.bin", model))
    model = message()
    model.graphs[0].node.add(name="part_1", op_type="BPU", input=["fc"], output=["z"])
    with Simulator(toolchain, save(tmp_path / "x.bin", model)) as simulator:
        assert simulator.integers(FRAME)[0].size == 2  # the first part runs
        with pytest.raises(ToolchainError, match=r"calls the BPU 2 times.*Dequantize 'deq'"):
            simulator.outputs(FRAME)
    (Path(toolchain.where) / "hbdk-sim").unlink()
    with pytest.raises(ToolchainMissing, match="no hbdk-sim"):
        Simulator(toolchain, tmp_path / "x.bin")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that makes the given compiler the one that is found."""

    def use(toolchain: Toolchain | None) -> None:
        if toolchain is None:
            monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "none"))
            monkeypatch.setenv("PATH", str(tmp_path / "none"))
        else:
            monkeypatch.setattr("edge.toolchain.find.find", lambda: toolchain)

    return use


@pytest.mark.parametrize("backend", [hbdk_sim, quantized])
def test_what_the_machine_or_the_program_lacks_is_told(backend: Any, tiny: Path, only: Any) -> None:
    with pytest.raises(BackendMissing, match=r"comes without its (\.bin|quantized ONNX)"):
        backend.open_backend(Program(tiny, {}))
    only(None)
    with pytest.raises(BackendMissing, match="no compiler was found") as caught:
        backend.open_backend(Program(tiny, {"bin": tiny, "quantized": tiny}))
    assert "edge toolchain install" in str(caught.value)


def test_the_backend_says_what_it_opened_and_what_it_refuses(tool: Any, tiny: Path, only: Any) -> None:
    toolchain = tool(GOOD + WRITE)
    only(toolchain)
    with load(tiny, "hbdk_sim") as net:
        assert (net.backend, net.info.version, net.info.model) == ("hbdk_sim", "hbdk 3.49.15", "tiny")
        assert net.info.inputs[0].size == SIZE
        assert net.info.exact
        assert net.run(FRAME)[0].tolist() == [[-3.0, 2.0]]
        tool("kill -9 $$\n")
        with pytest.raises(BackendError, match="signal 9"):
            net.run(FRAME)
    with pytest.raises(BackendError, match="video-range"):
        load(save(tiny, message(range="bt601_video;")), "hbdk_sim")
    tiny.write_bytes(b"rubbish")
    with pytest.raises(BackendError, match="not a program"):
        load(tiny, "hbdk_sim")
    (Path(toolchain.where) / "hbdk-sim").unlink()
    with pytest.raises(BackendMissing, match="no hbdk-sim"):
        load(tiny, "hbdk_sim")


def compiled(folder: Path, toolchain: Toolchain, nodes: list[Any], outputs: dict[str, list[int]]) -> Program:
    """Compile a net of 48x64 images at O0."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in (("w0", (8, 3, 3, 3)), ("w1", (5, 8, 1, 1)))
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 48, 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.save(model, str(folder / "net.onnx"))
    (folder / "tiny.yaml").write_text(YAML)
    (folder / "images").mkdir()
    for index in range(3):
        rng.uniform(0, 255, (3, 48, 64)).astype(np.float32).tofile(folder / "images" / f"{index}.bin")
    out = folder / "out"
    out.mkdir()
    makertbin(
        toolchain,
        yaml=folder / "tiny.yaml",
        files={"net.onnx": folder / "net.onnx", "../calib_f32": folder / "images"},
        out=out,
        prefix="tiny",
        working_dir="model_output",
        key=folder.name.replace("_", "").rjust(16, "0"),
        timeout=300,
    )
    return Program(out, {"bin": out / "tiny.bin", "quantized": out / "tiny_quantized_model.onnx"})


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain) -> Program:
    """Four outputs: an int8 map of 5 channels, a pooled one, one in NHWC, and probabilities."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="/head/a conv"),
        helper.make_node("MaxPool", ["b"], ["m"], name="max", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Softmax", ["f"], ["prob"], name="soft", axis=1),
        helper.make_node("Conv", ["b", "w1"], ["d"], name="last"),
        helper.make_node("Transpose", ["d"], ["t"], name="turn", perm=[0, 2, 3, 1]),
    ]
    outputs = {"c": [1, 5, 24, 32], "m": [1, 8, 12, 16], "prob": [1, 5], "t": [1, 24, 32, 5]}
    return compiled(tmp_path_factory.mktemp("heads"), toolchain, nodes, outputs)


@pytest.mark.compiler
def test_every_output_equals_the_vendors_runtime(heads: Program) -> None:
    rng = np.random.default_rng(1)
    with_sim, with_model = hbdk_sim.open_backend(heads), quantized.open_backend(heads)
    try:
        assert with_sim.info.outputs == with_model.info.outputs
        assert with_sim.info.inputs == with_model.info.inputs
        for _ in range(2):
            frame = rng.integers(0, 256, 48 * 64 * 3 // 2, dtype=np.uint8)
            ours, theirs = with_sim.run([frame]), with_model.run([frame])
            for tensor, a, b in zip(with_sim.info.outputs, ours, theirs, strict=True):
                assert a.dtype == b.dtype == np.float32
                assert a.shape == b.shape == tensor.shape
                if tensor.name == "prob":
                    np.testing.assert_allclose(a, b, rtol=2e-6)
                else:
                    assert np.unique(a).size > 4  # they say something
                    np.testing.assert_array_equal(a, b)
    finally:
        with_sim.close()
        with_model.close()


@pytest.mark.compiler
def test_a_killed_worker_is_told_and_ends_with_the_backend(heads: Program) -> None:
    backend = quantized.open_backend(heads)
    process = backend._model._process
    frame = np.zeros(48 * 64 * 3 // 2, np.uint8)
    assert len(backend.run([frame])) == 4
    process.kill()
    process.wait()
    for _ in range(2):
        with pytest.raises(BackendError, match="-9"):
            backend.run([frame])
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run([frame])


@pytest.mark.compiler
def test_the_real_simulator_refuses_a_broken_program(heads: Program, tmp_path: Path, toolchain: Toolchain) -> None:
    model = binfile._message("Model").FromString(heads.files["bin"].read_bytes())
    for tensor in model.graphs[0].initializer:
        if tensor.name == binfile.HBM:
            tensor.string_data[0] = tensor.string_data[0][:5000]
    broken = save(tmp_path / "x.bin", model)
    with Simulator(toolchain, broken) as simulator, pytest.raises(ToolchainError, match="hbrtError"):
        simulator.integers(np.zeros(48 * 64 * 3 // 2, np.uint8))
