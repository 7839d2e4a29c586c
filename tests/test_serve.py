"""``edge serve`` by the clients that people use, and by some that nobody should."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from grpc_tools import protoc

from edge.errors import BackendError
from edge.images.demo import draw
from edge.runtime import Net, load
from tests.conftest import wait_for
from tests.fabricated import NAMES, make_build
from tests.fake_board import board_build, plug_in
from tests.serving import NV12, Scripted, Served, net_of, serving

CLIENTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}
RGB = draw("test", 3)[0][:120, :160]
JPEG = cv2.imencode(".jpg", np.ascontiguousarray(RGB[..., ::-1]))[1].tobytes()
FRAME = np.random.default_rng(0).integers(0, 256, NV12, dtype=np.uint8)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with load(make_build(tmp_path_factory.mktemp("serve") / "ConvNeXt_atto"), "portable") as opened:
        yield opened


@pytest.fixture(scope="module")
def served(net: Net) -> Iterator[Served]:
    with serving(("ConvNeXt_atto", net), ("another", net_of(Scripted())), threads=2) as started:
        yield started


def connect(kind: str, served: Served, **more: Any) -> Any:
    return CLIENTS[kind].InferenceServerClient(getattr(served, kind), **more)


def tensor(kind: str, array: np.ndarray, name: str = "image", datatype: str = "UINT8", **more: bool) -> Any:
    given = CLIENTS[kind].InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, **more)
    return given


def ask(kind: str, served: Served, array: np.ndarray = FRAME, model: str = "ConvNeXt_atto", **more: Any) -> Any:
    with connect(kind, served) as client:
        return client.infer(model, [tensor(kind, array)], **more)


def refusal(kind: str, served: Served, **more: Any) -> tuple[str, str]:
    """Return status and message of a request that is refused."""
    with pytest.raises(CLIENTS[kind].InferenceServerException) as caught:
        ask(kind, served, **more)
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


def post(served: Served, body: bytes, path: str = "/v2/models/ConvNeXt_atto/infer", **headers: str) -> tuple[int, Any]:
    host, port = served.http.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def get(served: Served, path: str) -> tuple[int, bytes]:
    host, port = served.http.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


# What the protocol is


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_learns_what_there_is(served: Served, kind: str) -> None:
    with connect(kind, served) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("ConvNeXt_atto")
        assert client.is_model_ready("another", "1")
        as_dict = {"as_json": True} if kind == "grpc" else {}
        assert client.get_server_metadata(**as_dict)["name"] == "edge"
        told = client.get_model_metadata("ConvNeXt_atto", **as_dict)
    assert told["versions"] == ["1"]
    assert told["platform"] == "edge_portable"
    assert [(one["name"], one["datatype"], [int(n) for n in one["shape"]]) for one in told["inputs"]] == [
        ("image", "UINT8", [96, 64])
    ]
    assert [(one["name"], one["datatype"], [int(n) for n in one["shape"]]) for one in told["outputs"]] == [
        ("scores", "FP32", [1, 4])
    ]


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("shape", [(NV12,), (96, 64), (1, 96, 64)])
def test_nv12_gives_the_programs_own_scores(served: Served, net: Net, kind: str, shape: tuple[int, ...]) -> None:
    assert np.array_equal(ask(kind, served, FRAME.reshape(shape)).as_numpy("scores"), net.run(FRAME)[0])


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("shape", [RGB.shape, (1, *RGB.shape)])
def test_an_rgb_image_is_resized_here(served: Served, net: Net, kind: str, shape: tuple[int, ...]) -> None:
    answer = ask(kind, served, np.ascontiguousarray(RGB).reshape(shape))
    assert np.array_equal(answer.as_numpy("scores"), net.run(net.nv12(RGB))[0])


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_jpeg_gives_scores_labels_and_times(served: Served, net: Net, kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(JPEG)
    wanted = [CLIENTS[kind].InferRequestedOutput(name) for name in ("edge.answer", "scores")]
    with connect(kind, served) as client:
        given = tensor(kind, np.array([JPEG], object), datatype="BYTES")
        answer = client.infer("ConvNeXt_atto", [given], outputs=wanted, request_id="seven")
    assert np.array_equal(answer.as_numpy("scores"), net.run(net.nv12(tmp_path / "x.jpg"))[0])
    labels = json.loads(answer.as_numpy("edge.answer")[0])["labels"]
    assert [(one["label"], one["probability"]) for one in labels] == net.classify(tmp_path / "x.jpg")
    told = answer.get_response(as_json=True) if kind == "grpc" else answer.get_response()
    assert told["id"] == "seven"
    steps = ["queue", "decode", "resize", "nv12", "run", "post"]
    assert sorted(told["parameters"]) == sorted(f"{step}_ms" for step in steps)


def test_json_without_a_client(served: Served, net: Net) -> None:
    expected = net.run(FRAME)[0].ravel().tolist()
    for data in (FRAME.tolist(), FRAME.reshape(96, 64).tolist()):
        request = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [96, 64], "data": data}]}
        status, told = post(served, json.dumps(request).encode())
        assert (status, told["outputs"][0]["data"]) == (200, expected)
        assert "id" not in told
    text = base64.b64encode(JPEG).decode()
    request = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    request["outputs"] = [{"name": "edge.answer"}]
    _, told = post(served, json.dumps(request).encode(), "/v2/models/ConvNeXt_atto/versions/1/infer")
    assert {one["label"] for one in json.loads(told["outputs"][0]["data"][0])["labels"]} == set(NAMES)


def test_the_messages_are_those_of_the_published_protocol(tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parent.parent / "edge" / "serve"
    made = tmp_path / "made.binpb"
    name = "open_inference_grpc.proto"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={made}", name]) == 0
    assert made.read_bytes() == (folder / name).with_suffix(".binpb").read_bytes()


# What is refused


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_there_is_not_is_named(served: Served, kind: str) -> None:
    wanted = [CLIENTS[kind].InferRequestedOutput("depth")]
    missing = {"http": "404", "grpc": "NOT_FOUND"}[kind]
    assert refusal(kind, served, outputs=wanted) == (
        missing,
        "ConvNeXt_atto has no output 'depth'\nexpected: scores, edge.answer",
    )
    assert refusal(kind, served, model_version="2")[0] == missing
    with connect(kind, served) as client:
        with pytest.raises(CLIENTS[kind].InferenceServerException, match="no model 'yolo'"):
            client.get_model_metadata("yolo")
        with pytest.raises(CLIENTS[kind].InferenceServerException, match="expected: each of image once"):
            client.infer("ConvNeXt_atto", [tensor(kind, FRAME, "nv12")])
        given = CLIENTS[kind].InferInput("image", [NV12], "UINT8")
        given.set_shared_memory("/etc/passwd", NV12)
        with pytest.raises(CLIENTS[kind].InferenceServerException, match="shared_memory_region"):
            client.infer("ConvNeXt_atto", [given])


def described(**fields: Any) -> bytes:
    one = {"name": "image", "datatype": "UINT8", "shape": [NV12], "data": [0] * NV12} | fields
    return json.dumps({"inputs": [one]}).encode()


BOMB = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60_000, 60_000) + b"\x08\x02\0\0\0" + bytes(64)


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (b"", {}, "not JSON"),
        (b"\xff\xfe\x00", {}, "not JSON"),
        (b"[" * 100_000, {}, "not JSON"),
        (b"[]", {}, "no JSON object"),
        (b"{}", {}, "each of image once"),
        (b'{"inputs": 3}', {}, "expected: a list"),
        (b'{"inputs": [3]}', {}, "no JSON object"),
        (described(name=3), {}, "'name' of an input is 3"),
        (described(datatype="UINT9"), {}, "'UINT9'"),
        (described(datatype="BYTES"), {}, "not base64"),
        (described(datatype="FP32", data=["x"]), {}, "not what it says"),
        (described(shape=[-1]), {}, "shape [-1]"),
        (described(shape=[True]), {}, "shape [True]"),
        (described(shape=[10**30]), {}, "not what it says"),
        (described(shape=[1] * 99), {}, "a few whole numbers"),
        (described(data=[0]), {}, "expected: 6144 of UINT8"),
        (described(data=[256] * NV12), {}, "not what it says"),
        (described(data=[[0, 1], [2]]), {}, "not what it says"),
        (described(data={"a": 1}), {}, "expected: a list"),
        (
            described(datatype="FP32"),
            {},
            "expected: a JPEG or PNG as BYTES [1], RGB as UINT8 [height, width, 3], or NV12",
        ),
        (described(datatype="BYTES", shape=[7]), {}, "expected: 7 of BYTES"),
        (described(datatype="BYTES", shape=[2], data=["", ""]), {}, "2 images"),
        (described(datatype="BYTES", shape=[1], data=["aGVsbG8="]), {}, "no JPEG or PNG"),
        (described(datatype="BYTES", shape=[1], data=[base64.b64encode(BOMB).decode()]), {}, "60000x60000"),
        (
            described(datatype="BYTES", shape=[1], data=[base64.b64encode(JPEG[:900]).decode()]),
            {},
            "send all its bytes",
        ),
        (described(shape=[2, 4, 4, 3], data=[0] * 96), {}, "expected: one a request"),
        (described(parameters={"binary_data_size": 5}), {}, "binary_data_size 5"),
        (described(parameters={"binary_data_size": -1}), {}, "binary_data_size -1"),
        (described(parameters={"shared_memory_region": "x"}), {}, "not supported"),
        (b"{}", {"Inference_Header_Content_Length": "3"}, "Inference-Header-Content-Length: 3"),
        (b"{}", {"Inference_Header_Content_Length": "-1"}, "Inference-Header-Content-Length: -1"),
        (b"{}xx", {"Inference_Header_Content_Length": "2"}, "2 bytes at the end"),
        (b"{}", {"Content_Encoding": "gzip"}, "compressed"),
    ],
)
def test_garbage_is_told_what_it_is(served: Served, body: bytes, headers: dict[str, str], says: str) -> None:
    status, told = post(served, body, **headers)
    assert status == 400
    assert says in told["error"]
    assert "Traceback" not in told["error"]


def test_bytes_that_are_no_message(served: Served) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    host, port = served.http.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(bytes(range(256)) * 8 + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert get(served, "/v2/health/live")[0] == 200
    assert json.loads(get(served, "/no/such")[1]) == {"error": "Not Found: GET /no/such"}
    assert get(served, "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd")[0] == 404


def test_too_large_is_refused_before_it_is_read(served: Served) -> None:
    largest = 16 << 20
    host, port = served.http.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v2/models/another/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v2/models/another/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with suppress(OSError):  # it closes
            while sent < 4 * largest:
                connection.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
                sent += 1 << 20
        assert sent < 2 * largest
    status, _ = refusal("grpc", served, array=np.zeros(largest + 1000, np.uint8))
    assert status == "RESOURCE_EXHAUSTED"


# What a queue does


class Gate:
    """An action that waits until the test opens it."""

    def __init__(self) -> None:
        self.entered, self._open = threading.Semaphore(0), threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self._open.wait(60)

    def open(self) -> None:
        self._open.set()


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_full_queue_refuses_and_what_it_took_is_answered(kind: str) -> None:
    gate = Gate()
    with serving(("m", net_of(Scripted(gate))), waiting=1) as served, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, kind, served, model="m")
        assert gate.entered.acquire(timeout=30)
        second = pool.submit(ask, kind, served, model="m")
        assert wait_for(lambda: b'edge_queue_requests{model="m"} 2.0' in get(served, "/metrics")[1])
        status, text = refusal(kind, served, model="m")
        assert status == {"http": "429", "grpc": "UNAVAILABLE"}[kind]
        assert "expected: try again later" in text
        gate.open()
        assert first.result(30).as_numpy("scores").shape == second.result(30).as_numpy("scores").shape == (1, 4)
        told = get(served, "/metrics")[1].decode()
    assert f'edge_requests_total{{model="m",protocol="{kind}",result="full"}} 1.0' in told
    assert f'edge_requests_total{{model="m",protocol="{kind}",result="ok"}} 2.0' in told
    assert 'edge_step_seconds_count{model="m",step="run"} 2.0' in told


@pytest.mark.parametrize("kind", CLIENTS)
def test_who_waits_too_long_is_told_and_not_computed(kind: str) -> None:
    gate, backend = Gate(), Scripted()
    backend.action = gate
    with serving(("m", net_of(backend)), seconds=0.3) as served:
        late = {"http": "504", "grpc": "DEADLINE_EXCEEDED"}[kind]
        assert refusal(kind, served, model="m") == (late, "no answer within 0.3 s")  # it is being computed
        assert refusal(kind, served, model="m")[0] == late  # it waits
        gate.open()
        assert ask(kind, served, model="m").as_numpy("scores") is not None
    assert backend.runs == 2


def test_a_body_that_never_comes_ends(served: Served) -> None:
    with serving(("m", net_of(Scripted())), seconds=0.3) as short:
        host, port = short.http.split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            assert connection.recv(100).startswith(b"HTTP/1.1 504")


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_that_leaves_is_not_computed(kind: str) -> None:
    gate, backend = Gate(), Scripted()
    backend.action = gate
    with serving(("m", net_of(backend))) as served, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, kind, served, model="m")
        assert gate.entered.acquire(timeout=30)
        if kind == "http":
            host, port = served.http.split(":")
            with socket.create_connection((host, int(port))) as leaving:
                body = described()
                head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                leaving.sendall(head.encode() + body)
                assert wait_for(lambda: b'edge_queue_requests{model="m"} 2.0' in get(served, "/metrics")[1])
        else:
            refused = refusal(kind, served, model="m", client_timeout=0.3)
            assert refused[0] == "DEADLINE_EXCEEDED"
        left = f'edge_requests_total{{model="m",protocol="{kind}",result="gone"}} 1.0'
        assert wait_for(lambda: left in get(served, "/metrics")[1].decode())
        gate.open()
        first.result(30)
        ask(kind, served, model="m")
    assert backend.runs == 2


@pytest.mark.parametrize("kind", CLIENTS)
def test_stopping_finishes_what_runs_and_refuses_the_rest(kind: str) -> None:
    gate = Gate()
    with serving(("m", net_of(Scripted(gate)))) as served, ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, kind, served, model="m")
        assert gate.entered.acquire(timeout=30)
        served.stop()
        assert wait_for(lambda: not answers(kind, served))
        assert not running.done()
        gate.open()
        assert running.result(30).as_numpy("scores").shape == (1, 4)
        assert wait_for(served.ended)


def test_a_second_stop_leaves_even_what_runs() -> None:
    gate = Gate()
    with serving(("m", net_of(Scripted(gate)))) as served, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask, kind, served, model="m") for kind in CLIENTS]
        assert gate.entered.acquire(timeout=30)
        served.stop()
        time.sleep(1)
        assert not served.ended()
        served.stop()
        assert wait_for(served.ended)
        gate.open()
        for one in running:
            with pytest.raises(Exception):  # noqa: B017, PT011 - each client has its own for a closed connection
                one.result(30)


def answers(kind: str, served: Served) -> bool:
    try:
        ask(kind, served, model="m", **({"client_timeout": 1} if kind == "grpc" else {}))
    except Exception:
        return False
    return True


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_program_that_fails_is_not_ready_until_it_works_again(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    broken = [True]

    def work() -> None:
        if broken[0]:
            raise BackendError("the process of hbm_runtime ended: SIGABRT", remedy="hrt_model_exec infer")

    with serving(("m", net_of(Scripted(work)))) as served, connect(kind, served) as client:
        status, text = refusal(kind, served, model="m")
        assert status == {"http": "500", "grpc": "INTERNAL"}[kind]
        assert "SIGABRT" in text
        assert "tell the server's operator" in text
        assert "hrt_model_exec" not in text
        assert not client.is_model_ready("m")
        assert not client.is_server_ready()
        assert client.is_server_live()
        broken.clear()
        broken.append(False)
        ask(kind, served, model="m")
        assert client.is_server_ready()
    assert "SIGABRT" in caplog.text
    assert "hrt_model_exec infer" in caplog.text


@pytest.mark.parametrize("healthy", [1, 2])
def test_a_process_that_ends_is_started_again_three_times_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: int
) -> None:
    """The first run of each process is the test image."""
    plug_in(monkeypatch, workers=True)
    build = board_build(tmp_path / "net", fails=-6000001, healthy=healthy)
    frame = np.zeros((96, 64), np.uint8)
    with load(build, "hbm_runtime", restarts=3) as net, serving(("m", net)) as served:
        seen, ready = list[bool](), list[bool]()
        for _ in range(8):
            with suppress(tritonclient.utils.InferenceServerException):
                ask("http", served, frame, model="m")
                seen.append(True)
            seen += [False] * (len(ready) + 1 - len(seen))
            ready.append(get(served, "/v2/health/ready")[0] == 200)
        told = get(served, "/metrics")[1].decode()
    if healthy == 2:
        assert seen == [True, False] * 4
        assert all(ready)
        assert 'edge_restarts{model="m"} 4.0' in told
        assert 'edge_ready{model="m"} 1.0' in told
    else:
        assert not any(seen)
        assert ready == [True] * 3 + [False] * 5
        assert 'edge_restarts{model="m"} 3.0' in told
        assert 'edge_ready{model="m"} 0.0' in told


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_nobody_expected_has_no_traceback(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        raise ZeroDivisionError("secret")

    with serving(("m", net_of(Scripted(work)))) as served:
        status, text = refusal(kind, served, model="m")
    assert status == {"http": "500", "grpc": "INTERNAL"}[kind]
    assert text == "unexpected ZeroDivisionError; the server's log says more"
    assert "unexpected ZeroDivisionError: secret" in caplog.text
    assert "Traceback" not in caplog.text


def test_json_does_not_know_infinity() -> None:
    backend = Scripted()
    backend.run = lambda _: [np.full((1, 4), np.inf, np.float32)]  # type: ignore[method-assign]
    with serving(("m", net_of(backend))) as served:
        status, told = post(served, described(), "/v2/models/m/infer")
        assert (status, "binary_data" in told["error"]) == (400, True)
        assert np.isinf(ask("http", served, model="m").as_numpy("scores")).all()


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("clients", [1, 8, 64])
def test_many_clients_get_the_answers_to_their_own_images(served: Served, net: Net, kind: str, clients: int) -> None:
    rng = np.random.default_rng(clients)
    frames = rng.integers(0, 256, (clients, NV12), dtype=np.uint8)
    expected = [net.run(frame)[0] for frame in frames]
    before, deadline = psutil.Process().memory_info().rss, time.monotonic() + 3

    def talk(index: int) -> int:
        count = 0
        with connect(kind, served) as client:
            while count == 0 or time.monotonic() < deadline:
                answer = client.infer("ConvNeXt_atto", [tensor(kind, frames[index])])
                assert np.array_equal(answer.as_numpy("scores"), expected[index])
                count += 1
        return count

    with ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(talk, range(clients))) >= clients
    assert psutil.Process().memory_info().rss - before < 300 << 20
