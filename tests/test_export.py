from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import cattrs
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.errors import (
    DownloadError,
    InputError,
    ModelFileError,
    SpecError,
    ToolchainError,
    ToolchainMissing,
    UsageError,
)
from edge.files import sha256_of
from edge.graph.files import facts, load_onnx
from edge.progress import Silent
from edge.sources.check import inspect_onnx
from edge.sources.download import cache_entry
from edge.sources.sources import Resolved, choose_weights
from edge.sources.stage import ExportResult, export
from edge.sources.timm_spec import WORKER as TIMM_CONFIG
from edge.specs import ModelSpec, Preprocess, Published, Sources, load_model
from edge.toolchain.found import Toolchain
from edge.toolchain.process import Completed
from tests.conftest import save_net

CLASSES = 8
PRE = Preprocess(crop=(32, 32), resize=32)
SAFETENSORS = b"stands for safetensors"


def net(
    path: Path,
    *,
    shape: tuple[Any, ...] = (1, 3, 32, 32),
    output: tuple[int, ...] = (1, CLASSES),
    softmax: bool = False,
    external: bool = False,
) -> Path:
    """ReduceMean over the image, then one Gemm."""
    last = shape[1] != 3
    axes = [1, 2] if last else [2, 3]
    weight = np.random.default_rng(0).normal(size=(CLASSES, shape[3] if last else shape[1]))
    tensors = [
        numpy_helper.from_array(weight.astype(np.float32), "w"),
        numpy_helper.from_array(np.array(output, np.int64), "shape"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], "/mean", axes=axes, keepdims=0),
        helper.make_node("Gemm", ["mean", "w"], ["g"], "/head", transB=1),
        helper.make_node("Softmax", ["g"], ["s"], "/softmax", axis=1)
        if softmax
        else helper.make_node("Identity", ["g"], ["s"], "/same"),
        helper.make_node("Reshape", ["s", "shape"], ["scores"], "/reshape"),
    ]
    outs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, output)]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "tiny", inputs, outs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.save(model, path, save_as_external_data=external, location=path.name + ".data", size_threshold=0)
    return path


class Hub(http.server.BaseHTTPRequestHandler):
    """Hugging Face and the vendor in one."""

    files: dict[str, bytes] = {}  # noqa: RUF012 - filled by the fixture
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = self.files.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        if body is not None:
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        self.wfile.write(body or b"")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, no cache of the user's, and a hub that refuses."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("HF_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    Hub.asked.clear()
    Hub.files = {
        "/timm/tiny.a1/resolve/main/model.safetensors": SAFETENSORS,
        "/vendor/Tiny.onnx": net(tmp_path / "vendors.onnx").read_bytes(),
    }
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield url
        running.shutdown()


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A zoo folder with demo weights."""
    folder = tmp_path / "zoo"
    (folder / "demo").mkdir(parents=True)
    net(folder / "demo" / "Tiny_demo.onnx")
    monkeypatch.setattr("edge.sources.sources.zoo_dir", lambda: folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@attrs.define
class FakeToolchain:
    """Answers as the exporter would."""

    answer: str = '{"parameters": 24, "classes": 8, "nodes": 4, "max_error": 2e-7, "torch": "1.13.1", "timm": "1.0.31"}'
    returncode: int = 0
    timed_out: bool = False
    writes: bool = True
    kind: str = "managed"
    where: str = "/somewhere/bin"
    python: str | None = "/somewhere/bin/python"
    near: str = '{"known": true}'
    jobs: list[dict[str, Any]] = attrs.field(factory=list)

    def python_argv(self) -> list[str] | None:
        return [self.python] if self.python else None

    def worker_path(self, name: str) -> Path:
        return Path("/somewhere") / name

    def run_python(self, args: list[str], *, cwd: Path, timeout: float, **_: Any) -> Completed:
        if args[0] == "-c":
            return Completed(self.returncode, 0.1, "")
        if Path(args[0]).name == TIMM_CONFIG:
            return Completed(0, 0.1, self.near)
        job = json.loads(args[1])
        self.jobs.append(job)
        if self.writes:
            net(Path(job["out"]))
        return Completed(self.returncode, 0.1, "a warning\n" + self.answer, self.timed_out)


def spec(**sources: str | None) -> ModelSpec:
    return ModelSpec("Tiny", Sources(**sources), PRE, classes=CLASSES)


def timm_spec(hub: str = "http://127.0.0.1:9", **more: str | None) -> ModelSpec:
    return spec(timm="tiny.a1", vendor=f"{hub}/vendor/Tiny.onnx", demo="Tiny_demo.onnx", **more)


def with_toolchain(**settings: Any) -> tuple[FakeToolchain, Any]:
    fake = FakeToolchain(**settings)
    return fake, lambda: fake


# --- choosing ---


def test_auto_takes_timm_first(hub: str, zoo: Path) -> None:
    got = choose_weights(timm_spec(hub), toolchain=with_toolchain()[1])
    assert (got.source, got.name, got.tag, got.needs_toolchain) == ("timm", "Tiny", "tiny.a1", True)
    assert got.sha256 == hashlib.sha256(SAFETENSORS).hexdigest()
    assert Path(got.file or "").read_bytes() == SAFETENSORS


def test_auto_goes_on_to_the_vendor_and_says_why(hub: str, zoo: Path) -> None:
    del Hub.files["/timm/tiny.a1/resolve/main/model.safetensors"]
    listener = Silent()
    got = choose_weights(timm_spec(hub), toolchain=with_toolchain()[1], reporter=listener)
    assert (got.source, got.name, got.tag) == ("vendor", "Tiny", f"{hub}/vendor/Tiny.onnx")
    assert len(listener.warnings) == 1
    assert "404" in listener.warnings[0]
    assert listener.warnings[0].endswith("; trying vendor")


def test_auto_offline_ends_with_the_demo(zoo: Path) -> None:
    listener = Silent()
    got = choose_weights(timm_spec(), toolchain=with_toolchain()[1], reporter=listener)
    assert (got.source, got.name, got.classes) == ("demo", "Tiny_demo", None)
    assert [line.split(":")[0] for line in listener.warnings] == ["timm weights", "vendor weights"]
    assert all("no network" in line and "\n" not in line for line in listener.warnings)


def test_auto_without_an_exporter_skips_timm(hub: str, zoo: Path) -> None:
    listener = Silent()
    got = choose_weights(timm_spec(hub), toolchain=lambda: None, reporter=listener)
    assert got.source == "vendor"
    assert "no compiler" in listener.warnings[0]
    assert not any("safetensors" in path for path in Hub.asked)


def test_auto_with_nothing_lists_what_was_tried() -> None:
    model = spec(timm="tiny.a1", vendor="http://127.0.0.1:9/Tiny.onnx")
    with pytest.raises(DownloadError) as caught:
        choose_weights(model, toolchain=with_toolchain()[1])
    text = str(caught.value)
    assert all(word in text for word in ("timm weights", "vendor weights", "--weights random", "net.onnx"))


@pytest.mark.parametrize("name", ["timm", "vendor"])
def test_a_named_source_is_never_replaced(zoo: Path, name: Any) -> None:
    with pytest.raises(DownloadError, match="no network"):
        choose_weights(timm_spec(), name, toolchain=with_toolchain()[1])


@pytest.mark.parametrize("name", ["timm", "vendor", "demo", "random"])
def test_a_source_that_a_model_lacks_is_a_usage_error(name: Any) -> None:
    with pytest.raises(UsageError, match=f"Tiny has no {name} weights"):
        choose_weights(spec(), name, toolchain=with_toolchain()[1])


def test_a_source_that_does_not_exist_is_a_usage_error() -> None:
    wrong: Any = "torchvision"
    with pytest.raises(UsageError, match="torchvision"):
        choose_weights(timm_spec(), wrong)


@pytest.mark.parametrize("name", ["timm", "random"])
@pytest.mark.parametrize("settings", [None, {"kind": "path", "python": None}, {"kind": "docker", "returncode": 1}])
def test_timm_and_random_need_an_exporter(name: Any, settings: dict[str, Any] | None) -> None:
    finder = (lambda: None) if settings is None else with_toolchain(**settings)[1]
    with pytest.raises(ToolchainMissing) as caught:
        choose_weights(timm_spec(), name, toolchain=finder)
    assert caught.value.remedy == "edge toolchain install"


def test_the_users_own_compiler_exports_if_it_has_torch_and_timm() -> None:
    assert choose_weights(timm_spec(), "random", toolchain=with_toolchain(kind="path")[1]).source == "random"


def test_the_compiler_is_not_looked_for_without_need(tmp_path: Path, zoo: Path) -> None:
    def never() -> None:
        pytest.fail("looked for the compiler")

    assert choose_weights(timm_spec(), "demo", toolchain=never).source == "demo"
    assert choose_weights(spec(onnx=str(net(tmp_path / "my.onnx"))), toolchain=never).source == "onnx"


def test_a_pinned_checksum_counts(hub: str) -> None:
    with pytest.raises(DownloadError, match="sha256"):
        choose_weights(timm_spec(hub, timm_sha256="0" * 64), "timm", toolchain=with_toolchain()[1])


def test_the_vendors_mixed_up_file_is_refused(hub: str, zoo: Path) -> None:
    published = Published("the zoo", params_m=3.69)
    model = attrs.evolve(timm_spec(hub), published=published)
    with pytest.raises(ModelFileError, match="another model's file"):
        choose_weights(model, "vendor")
    listener = Silent()
    assert choose_weights(model, toolchain=lambda: None, reporter=listener).source == "demo"
    assert "parameters" in listener.warnings[1]
    fits = attrs.evolve(model, published=Published("the zoo", params_m=24e-6))
    assert choose_weights(fits, "vendor").source == "vendor"


def hub_cache(folder: Path, body: bytes, blob: str) -> None:
    """Lay out a file as Hugging Face's client does."""
    repository = folder / "hub" / "models--timm--tiny.a1"
    for part in ("blobs", "refs", "snapshots/abc"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "blobs" / blob).write_bytes(body)
    (repository / "snapshots/abc/model.safetensors").symlink_to(f"../../blobs/{blob}")


def test_a_file_of_the_hubs_own_cache_is_used(hub: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(SAFETENSORS).hexdigest()
    hub_cache(tmp_path / "hf", SAFETENSORS, digest)
    got = choose_weights(timm_spec(hub), "timm", toolchain=with_toolchain()[1])
    assert (got.sha256, Hub.asked) == (digest, [])
    assert Path(got.file or "").parent.name == "blobs"


def test_a_damaged_file_of_the_hubs_cache_is_not_used(hub: str, tmp_path: Path) -> None:
    hub_cache(tmp_path / "hf", b"damaged", hashlib.sha256(SAFETENSORS).hexdigest())
    got = choose_weights(timm_spec(hub), "timm", toolchain=with_toolchain()[1])
    assert Path(got.file or "").read_bytes() == SAFETENSORS
    assert len(Hub.asked) == 1


def test_the_hubs_offline_switch_holds(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        choose_weights(timm_spec(hub), "timm", toolchain=with_toolchain()[1])
    assert Hub.asked == []


def test_a_download_is_kept(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose_weights(timm_spec(hub), "vendor")
    assert Path(first.file or "") == cache_entry(f"{hub}/vendor/Tiny.onnx")
    Hub.files.clear()
    assert choose_weights(timm_spec(hub), "vendor") == first


def test_missing_demo_weights_are_said(zoo: Path) -> None:
    (zoo / "demo" / "Tiny_demo.onnx").unlink()
    with pytest.raises(InputError, match=r"Tiny_demo\.onnx"):
        choose_weights(timm_spec(), "demo")


def test_the_identity_changes_with_what_counts(tmp_path: Path, zoo: Path) -> None:
    finder = with_toolchain()[1]
    path = net(tmp_path / "my.onnx")
    mine = choose_weights(spec(onnx=str(path)))
    same = tmp_path / "elsewhere"
    same.mkdir()
    (same / "my.onnx").write_bytes(path.read_bytes())
    assert choose_weights(spec(onnx=str(same / "my.onnx"))).identity() == mine.identity()
    net(path, softmax=True)
    others = [
        mine,
        choose_weights(spec(onnx=str(path))),
        choose_weights(timm_spec(), "demo"),
        choose_weights(timm_spec(), "random", toolchain=finder, seed=0),
        choose_weights(timm_spec(), "random", toolchain=finder, seed=1),
    ]
    keys = {json.dumps(one.identity(), sort_keys=True) for one in others}
    assert len(keys) == len(others)
    assert str(tmp_path) not in "".join(keys)


def test_external_data_counts(tmp_path: Path) -> None:
    path = net(tmp_path / "my.onnx", external=True)
    before = choose_weights(spec(onnx=str(path))).sha256
    data = tmp_path / "my.onnx.data"
    data.write_bytes(bytes(reversed(data.read_bytes())))
    assert choose_weights(spec(onnx=str(path))).sha256 != before
    data.unlink()
    with pytest.raises(ModelFileError, match=r"my\.onnx\.data"):
        choose_weights(spec(onnx=str(path)))


# --- exporting ---


def users(path: Path, out: Path, **changes: Any) -> ExportResult:
    model = attrs.evolve(spec(onnx=str(path)), **changes)
    return export(resolved=choose_weights(model), spec=model, out=out)


def test_the_users_onnx_is_copied_and_described(tmp_path: Path, out: Path) -> None:
    path = net(tmp_path / "my.onnx")
    result = users(path, out)
    assert result.onnx == "Tiny.onnx"
    assert (out / result.onnx).read_bytes() == path.read_bytes()
    assert (result.weights.source, result.weights.tag, result.weights.seed) == ("onnx", "my.onnx", None)
    assert result.weights.sha256 == sha256_of(path)
    assert (result.input_name, result.input_shape) == ("image", (1, 3, 32, 32))
    assert (result.classes, result.parameters, result.notes) == (CLASSES, 24, ())
    assert cattrs.structure(json.loads(json.dumps(cattrs.unstructure(result))), ExportResult) == result


def test_external_data_becomes_one_file(tmp_path: Path, out: Path) -> None:
    result = users(net(tmp_path / "my.onnx", external=True), out)
    assert [path.name for path in out.iterdir()] == ["Tiny.onnx"]
    assert facts(load_onnx(out / result.onnx)).parameters == 24


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"softmax": True}, "Softmax"),
        ({"output": (1, CLASSES, 1, 1)}, "1x8x1x1 is read as 8 scores"),
        ({"output": (1, 1, CLASSES)}, "1x1x8 is read as 8 scores"),
    ],
)
def test_what_is_fine_all_the_same_is_noted(tmp_path: Path, out: Path, settings: dict[str, Any], note: str) -> None:
    result = users(net(tmp_path / "my.onnx", **settings), out)
    assert result.classes == CLASSES
    assert len(result.notes) == 1
    assert note in result.notes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (1, 3, 64, 64)}, "images of 64x64"),
        ({"shape": (1, 3, 64, 32)}, "images of 64x32"),
        ({"shape": (1, 32, 32, 3)}, "NHWC"),
        ({"shape": (1, 4, 32, 32)}, "three colour channels"),
        ({"shape": (2, 3, 32, 32), "output": (2, CLASSES)}, "2x3x32x32"),
        ({"shape": ("N", 3, 64, 32)}, "images of 64x32"),
        ({"output": (1, 2, CLASSES // 2)}, "1x2x4"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    tmp_path: Path, out: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        users(net(tmp_path / "my.onnx", **settings), out)
    assert caught.value.expected


def test_the_remedy_for_a_wrong_size_is_the_flag_to_type(tmp_path: Path, out: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        users(net(tmp_path / "my.onnx", shape=(1, 3, 64, 64)), out)
    assert "--crop 64" in str(caught.value.remedy)


def test_a_wrong_number_of_classes_is_refused_unless_unknown(tmp_path: Path, out: Path) -> None:
    path = net(tmp_path / "my.onnx")
    with pytest.raises(ModelFileError, match="8 classes"):
        users(path, out, classes=1000)
    assert users(path, out, classes=None).classes == CLASSES


@pytest.mark.parametrize("body", [b"", b"<html>", b"\x08\x07\x12"], ids=["empty", "html", "cut"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, out: Path, body: bytes) -> None:
    (tmp_path / "my.onnx").write_bytes(body)
    with pytest.raises(ModelFileError):
        users(tmp_path / "my.onnx", out)
    with pytest.raises(ModelFileError, match="does not exist"):
        users(tmp_path / "none.onnx", out)


def test_inspect_serves_to_derive_a_spec(tmp_path: Path) -> None:
    found = inspect_onnx(net(tmp_path / "my.onnx", shape=(1, 64, 32, 3), softmax=True))
    assert (found.layout, found.crop, found.classes, found.scores) == ("NHWC", (64, 32), CLASSES, "softmax")


def test_an_open_output_shape_is_settled_by_a_run(tmp_path: Path) -> None:
    model = onnx.load(save_net(tmp_path / "net.onnx"))
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[0].dim_param = "made_up"
    assert facts(model).output_shape == (1, 4)
    model.graph.node[-1].op_type = "Conv"  # which does not run on these inputs
    with pytest.raises(ModelFileError, match="onnxruntime can't run it"):
        facts(model)


def opened(path: Path, shape: tuple[int | str, ...]) -> Path:
    """Write other sides into a model's input, names for open ones, and leave its output's open."""
    model = onnx.load(path)
    for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.Clear()
        setattr(dim, "dim_param" if isinstance(side, str) else "dim_value", side)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("shape", "size", "fixed"),
    [
        (("N", 3, 32, 32), None, (1, 3, 32, 32)),
        ((0, 3, 32, 64), None, (1, 3, 32, 64)),
        (("N", 3, "H", "W"), (64, 32), (1, 3, 64, 32)),
        ((1, 3, "H", 64), (32, 64), (1, 3, 32, 64)),
        (("N", 32, 64, 3), None, (1, 32, 64, 3)),
        (("N", "H", "W", 3), (64, 96), (1, 64, 96, 3)),
        (("N", "C", "H", "W"), (64, 96), None),
    ],
)
def test_open_sides_are_fixed(
    tmp_path: Path, shape: tuple[int | str, ...], size: tuple[int, int] | None, fixed: tuple[int, ...] | None
) -> None:
    static = fixed or (1, 3, 64, 96)
    path = opened(net(tmp_path / "net.onnx", shape=static), shape)
    if fixed is None:
        with pytest.raises(ModelFileError, match="dynamic shape 1xCx64x96"):
            inspect_onnx(path, size=size)
        return
    assert inspect_onnx(path, size=size).input_shape == fixed
    if size is not None and "N" in shape:
        with pytest.raises(ModelFileError, match="the size of the image is open") as caught:
            inspect_onnx(path)
        assert "--crop" in str(caught.value.remedy)


def test_a_fixed_model_answers_as_the_open_one(tmp_path: Path, out: Path) -> None:
    path = opened(net(tmp_path / "my.onnx"), ("N", 3, 32, 32))
    result = users(path, out)
    assert result.notes[0] == "the file's input is Nx3x32x32; it is built for 1x3x32x32"
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {result.input_name: x})[0]
        for file in (path, out / result.onnx)
    ]
    np.testing.assert_array_equal(*answers)


def test_demo_weights_say_demo_and_keep_their_classes(zoo: Path, out: Path) -> None:
    model = attrs.evolve(timm_spec(), classes=1000)
    result = export(resolved=choose_weights(model, "demo"), spec=model, out=out)
    assert (result.onnx, result.name, result.classes) == ("Tiny_demo.onnx", "Tiny_demo", CLASSES)
    assert result.weights.source == "demo"
    assert "demo" in result.notes[0]


def test_random_weights_say_random_and_are_recorded(out: Path) -> None:
    fake, finder = with_toolchain()
    resolved = choose_weights(timm_spec(), "random", toolchain=finder, seed=7)
    assert (resolved.file, resolved.sha256, resolved.seed) == (None, None, 7)
    chain: Any = fake
    result = export(resolved=resolved, spec=timm_spec(), toolchain=chain, out=out)
    assert (result.onnx, result.weights.seed) == ("Tiny_random.onnx", 7)
    assert result.weights.sha256 == sha256_of(out / result.onnx)
    job = fake.jobs[0]
    assert (job["tag"], job["weights"], job["seed"], job["classes"]) == ("tiny.a1", None, 7, CLASSES)
    assert (job["height"], job["width"]) == (32, 32)


def test_timm_weights_go_to_the_worker(hub: str, out: Path) -> None:
    fake, finder = with_toolchain()
    resolved = choose_weights(timm_spec(hub), "timm", toolchain=finder)
    chain: Any = fake
    result = export(resolved=resolved, spec=timm_spec(hub), toolchain=chain, out=out)
    assert fake.jobs[0]["weights"] == resolved.file
    assert (result.onnx, result.weights.sha256) == ("Tiny.onnx", resolved.sha256)
    assert "timm 1.0.31" in result.exporter


RANDOM = Resolved("random", "Tiny_random", "tiny.a1", None, None, 0, CLASSES)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"answer": '{"error": "no such model", "about": "model"}', "returncode": 1}, ToolchainError, "no such"),
        ({"answer": '{"error": "do not fit", "about": "weights"}', "returncode": 1}, InputError, "do not fit"),
        (
            {"answer": '{"error": "ModuleNotFoundError: no timm", "about": "model"}', "returncode": 1},
            ToolchainMissing,
            "no timm",
        ),
        ({"answer": "Killed", "returncode": -9}, ToolchainError, "Killed"),
        ({"answer": "", "returncode": 0, "writes": False}, ToolchainError, "failed"),
        ({"timed_out": True, "returncode": -15}, ToolchainError, "did not end"),
    ],
    ids=["model", "weights", "module", "killed", "nothing", "hung"],
)
def test_a_failing_worker_is_one_clear_line(
    out: Path, settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    chain: Any = FakeToolchain(**settings)
    with pytest.raises(kind, match=message) as caught:
        export(resolved=RANDOM, spec=timm_spec(), toolchain=chain, out=out)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("near", "expected", "remedy"),
    [
        ({"tags": [], "close": ["tiny.a2"]}, "such as tiny.a2", "sources: {timm: tiny.a2} in the model's YAML"),
        ({"tags": [], "close": []}, "a name of timm.list_models()", None),
    ],
)
def test_a_name_that_timm_has_not_is_told_with_close_ones(
    out: Path, near: dict[str, Any], expected: str, remedy: str | None
) -> None:
    failed = '{"error": "RuntimeError: Invalid pretrained tag", "about": "model"}'
    chain: Any = FakeToolchain(answer=failed, returncode=1, near=json.dumps({"known": False, **near}))
    with pytest.raises(SpecError, match=r"timm has no model 'tiny\.a1'") as caught:
        export(resolved=RANDOM, spec=timm_spec(), toolchain=chain, out=out)
    assert (caught.value.expected, caught.value.remedy) == (expected, remedy)


def test_random_weights_without_a_compiler_are_refused(out: Path) -> None:
    with pytest.raises(ToolchainMissing):
        export(resolved=RANDOM, spec=timm_spec(), out=out)


# --- with the compiler's real Python ---


@pytest.mark.compiler
def test_exports_convnext_as_the_vendors_yaml_expects(toolchain: Toolchain, tmp_path: Path) -> None:
    model = load_model("ConvNeXt_atto")
    resolved = choose_weights(model, "random", toolchain=lambda: toolchain, seed=3)
    results = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        results.append(export(resolved=resolved, spec=model, toolchain=toolchain, out=folder))
    assert results[0] == results[1]
    assert sha256_of(tmp_path / "first/ConvNeXt_atto_random.onnx") == results[1].weights.sha256
    graph = load_onnx(tmp_path / "first" / results[0].onnx)
    found = facts(graph)
    assert (found.opset, found.input_name, found.output_name) == (11, "data", "prob")
    assert (found.input_shape, found.output_shape) == ((1, 3, 224, 224), (1, 1000))
    assert found.parameters == pytest.approx(3.69e6, rel=0.01)
    assert all(name.startswith("/") for name in found.node_names)
    assert {
        "/stages/stages.3/downsample/downsample.1/Conv",
        "/stages/stages.2/blocks/blocks.5/conv_dw/Conv",
        "/stages/stages.3/downsample/downsample.0/Pow",
    } <= set(found.node_names)
    assert not any(node.doc_string for node in graph.graph.node)


@pytest.mark.compiler
def test_the_worker_loads_weights_strictly(toolchain: Toolchain, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    code = (
        "import sys, timm, torch, safetensors.torch as s; torch.manual_seed(5)\n"
        "m = timm.create_model('convnext_atto', num_classes=int(sys.argv[2]))\n"
        "[p.data.normal_() for p in m.parameters()]; s.save_file(m.state_dict(), sys.argv[1])"
    )
    model = attrs.evolve(load_model("ConvNeXt_atto"), preprocess=Preprocess(crop=(64, 64), resize=64))
    resolved = Resolved("timm", "ConvNeXt_atto", "convnext_atto.d2_in1k", str(weights), "0" * 64, None, 1000)
    for classes in (1000, 10):
        made = toolchain.run_python(["-c", code, str(weights), str(classes)], cwd=tmp_path, timeout=120)
        assert made.returncode == 0, made.tail
        out = tmp_path / str(classes)
        out.mkdir()
        if classes == 10:
            with pytest.raises(InputError, match="do not fit"):
                export(resolved=resolved, spec=model, toolchain=toolchain, out=out)
            continue
        result = export(resolved=resolved, spec=model, toolchain=toolchain, out=out)
        tensors = {t.name: t for t in load_onnx(out / result.onnx).graph.initializer}
        bias = numpy_helper.to_array(tensors["head.fc.bias"])
        assert bias.std() == pytest.approx(1, abs=0.1)  # a fresh head would hold zeros
    weights.write_bytes(b"<html>")
    with pytest.raises(InputError, match="can't be read"):
        export(resolved=resolved, spec=model, toolchain=toolchain, out=out)
