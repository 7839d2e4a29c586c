"""The Open Inference Protocol over HTTP, with the binary data extension; metrics; and the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from edge.errors import ServeError
from edge.runtime.steps import Stopwatch
from edge.serve import metrics
from edge.serve.model import SERVER, VERSION, Model, Models
from edge.serve.status import STATUS, reason_of
from edge.serve.tensors import Tensor, from_raw, from_values

HEADER = "Inference-Header-Content-Length"
GONE = 499  # nobody reads it
BODIES = 256 << 20  # bytes of all requests that are being read just now
_PAGE = Path(__file__).with_name("page.html")
# The page's own script and style, what it makes of the camera, and requests to this server: nothing from elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; media-src blob:"
)
_POLICY += "; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Answer = Callable[[Request], Awaitable[Response]]


def application(models: Models, counted: metrics.Metrics) -> Starlette:
    """Return the server's HTTP side as an ASGI application."""
    return Http(models, counted).application()


class Http:
    """The routes, and what they share."""

    def __init__(self, models: Models, counted: metrics.Metrics) -> None:
        self._models, self._metrics = models, counted
        self._largest = models.largest
        self._read = 0

    def application(self) -> Starlette:
        """Return the ASGI application."""
        rows: list[tuple[str, str, Answer]] = [
            ("GET", "/", self.page),
            ("GET", "/metrics", self.tell_metrics),
            ("GET", "/v2", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.server_ready),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            rows += [
                ("GET", path, self.model),
                ("GET", f"{path}/ready", self.model_ready),
                ("POST", f"{path}/infer", self.infer),
            ]
        routes = [Route(path, _guarded(answer), methods=[method]) for method, path, answer in rows]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_route})

    async def page(self, _: Request) -> Response:
        """Answer with the page."""
        known = [model.metadata() for model in self._models.values()]
        text = _PAGE.read_text(encoding="utf-8").replace("{{models}}", json.dumps(known).replace("<", "\\u003c"))
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})

    async def tell_metrics(self, _: Request) -> Response:
        """Answer Prometheus."""
        return Response(self._metrics.text(), media_type=metrics.KIND)

    async def live(self, _: Request) -> Response:
        """Tell that the process answers."""
        return JSONResponse({"live": True})

    async def server_ready(self, _: Request) -> Response:
        """Tell whether all models are ready."""
        ready = self._models.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, _: Request) -> Response:
        """Describe the server."""
        return JSONResponse(SERVER)

    async def model(self, request: Request) -> Response:
        """Describe a model."""
        return JSONResponse(self._find(request).metadata())

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a model is ready."""
        model = self._find(request)
        return JSONResponse({"name": model.name, "ready": model.ready}, 200 if model.ready else 503)

    async def infer(self, request: Request) -> Response:
        """Compute."""
        seconds: Mapping[str, float] = {}
        result = "ok"
        try:
            model = self._find(request)
            model.queue.require_open()
            body = await self._body(request, model.queue.seconds)
            header = request.headers.get(HEADER)

            def compute(watch: Stopwatch) -> tuple[bytes, dict[str, str], dict[str, float]]:
                return (*_infer(model, body, header, watch), watch.seconds)

            work = asyncio.ensure_future(model.queue.do(compute))
            gone = asyncio.ensure_future(request.receive())  # after the body, it tells that the client has left
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    result = "gone"
                    return Response(status_code=GONE)
                content, headers, seconds = work.result()
            finally:
                work.cancel()
                gone.cancel()
            return Response(content, headers=headers)
        except Exception as error:
            result = reason_of(error)[0]
            raise
        finally:
            self._metrics.count(request.path_params["model"], "http", result, seconds)

    def _find(self, request: Request) -> Model:
        return self._models.find(request.path_params["model"], request.path_params.get("version", ""))

    async def _body(self, request: Request, seconds: float) -> bytes:
        """Read a request's body, whose size is bounded, as is that of all bodies together."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise ServeError("invalid", "the request is compressed", expected="no Content-Encoding")
        declared = request.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) > self._largest:
            raise self._too_large(f"{int(declared):,} bytes")
        parts, size = list[bytes](), 0

        async def read() -> None:
            nonlocal size
            async for part in request.stream():
                size += len(part)
                self._read += len(part)
                parts.append(part)
                if size > self._largest:
                    raise self._too_large("a request")
                if self._read > BODIES:
                    raise ServeError("full", "too many large requests at once", expected="try again later")

        try:
            await asyncio.wait_for(read(), seconds)
        except asyncio.TimeoutError:
            raise ServeError("late", f"the request did not come within {seconds:g} s") from None
        finally:
            self._read -= size
        return b"".join(parts)

    def _too_large(self, seen: str) -> ServeError:
        return ServeError("large", f"{seen} for these models", expected=f"at most {self._largest:,} bytes")


def _guarded(answer: Answer) -> Answer:
    """Return an endpoint whose errors are the protocol's."""

    async def guarded(request: Request) -> Response:
        try:
            return await answer(request)
        except Exception as error:
            reason, text = reason_of(error)
            # The rest of a request that was not read is not waited for.
            headers = {"Connection": "close"} if reason in ("large", "late") else None
            return JSONResponse({"error": text}, STATUS[reason][0], headers)

    return guarded


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered
    text = f"{error.detail}: {request.method} {request.url.path}"
    return JSONResponse({"error": text}, error.status_code, error.headers)


def _infer(model: Model, body: bytes, header: str | None, watch: Stopwatch) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of the answer."""
    length = len(body)
    if header is not None:
        if not header.isascii() or not header.isdigit() or int(header) > length:
            raise ServeError("invalid", f"{HEADER}: {header[:40]}", expected=f"at most the body's {length:,} bytes")
        length = int(header)
    try:
        document = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise ServeError("invalid", "the request is not JSON", expected="the protocol's inference request") from None
    asked = _Fields(document, "the request")
    given = _inputs(asked, memoryview(body)[length:])
    every = asked.fields("parameters").boolean("binary_data_output")
    outputs = [_Fields(one, "an output") for one in asked.items("outputs")]
    binary = {
        one.text("name"): one.fields("parameters").boolean("binary_data", missing=every)
        for one in outputs
        if not one.fields("parameters").refuse("shared_memory_region", "classification")
    }
    found = model.infer(given, list(binary), watch)
    raw = list[bytes]()
    described = list[dict[str, Any]]()
    for tensor in found:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary.get(tensor.name, every):
            raw.append(tensor.raw)
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        elif isinstance(tensor.value, list):
            entry["data"] = [one.decode() for one in tensor.value]
        else:
            entry["data"] = tensor.value.ravel().tolist()
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if "id" in document:
        answer["id"] = asked.text("id")
    answer["parameters"] = milliseconds(watch)
    try:
        text = json.dumps({**answer, "outputs": described}, allow_nan=False).encode()
    except ValueError:
        raise ServeError(
            "invalid", "an output holds nan or infinity, which JSON does not know", expected="binary_data: true"
        ) from None
    if not raw:
        return text, {"Content-Type": "application/json"}
    return b"".join([text, *raw]), {HEADER: str(len(text)), "Content-Type": "application/octet-stream"}


def milliseconds(watch: Stopwatch) -> dict[str, float]:
    """Return the times of the steps as the parameters of an answer."""
    return {f"{step}_ms": round(1000 * seconds, 3) for step, seconds in watch.seconds.items()}


def _inputs(asked: _Fields, rest: memoryview) -> Sequence[Tensor]:
    """Return the tensors of a request, the binary ones from what follows its JSON, in their order."""
    given = list[Tensor]()
    for one in (_Fields(value, "an input") for value in asked.items("inputs")):
        about = one.fields("parameters")
        about.refuse("shared_memory_region")
        named = one.text("name"), one.text("datatype"), one.items("shape")
        size = about.value.get("binary_data_size")
        if size is None:
            given.append(from_values(*named, one.items("data")))
            continue
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise ServeError(
                "invalid", f"binary_data_size {size} of input {named[0]!r}", expected=f"at most {len(rest):,} bytes"
            )
        given.append(from_raw(*named, rest[:size]))
        rest = rest[size:]
    if len(rest):
        raise ServeError("invalid", f"{len(rest):,} bytes at the end belong to no input", expected="binary_data_size")
    return given


class _Fields:
    """A JSON object of a request, whose fields are of the kind that is asked for."""

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, dict):
            raise ServeError("invalid", f"{name} is no JSON object", expected="the protocol's inference request")
        self.value, self._name = value, name

    def text(self, key: str) -> str:
        found = self.value.get(key)
        if not isinstance(found, str):
            raise self._wrong(key, "a text")
        return found

    def items(self, key: str) -> Sequence[Any]:
        found = self.value.get(key, [])
        if not isinstance(found, list):
            raise self._wrong(key, "a list")
        return found

    def fields(self, key: str) -> _Fields:
        return _Fields(self.value.get(key, {}), f"'{key}' of {self._name}")

    def boolean(self, key: str, *, missing: bool = False) -> bool:
        found = self.value.get(key, missing)
        if not isinstance(found, bool):
            raise self._wrong(key, "true or false")
        return found

    def refuse(self, *keys: str) -> bool:
        for key in keys:
            if key in self.value:
                raise ServeError("invalid", f"'{key}' of {self._name} is not supported", expected="data in the request")
        return False

    def _wrong(self, key: str, expected: str) -> ServeError:
        return ServeError("invalid", f"'{key}' of {self._name} is {self.value.get(key)!r:.80}", expected=expected)
