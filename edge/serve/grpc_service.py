"""The Open Inference Protocol over gRPC.

The messages are made from the protocol's own description, ``open_inference_grpc.proto``, which protoc compiled to
``open_inference_grpc.binpb``: unlike generated Python, a description fits every version of protobuf. They live in a
pool of their own, so a client in the same process may bring its own messages of these names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from edge.errors import ServeError
from edge.runtime.steps import Stopwatch
from edge.serve.http import milliseconds
from edge.serve.metrics import Metrics
from edge.serve.model import SERVER, VERSION, Model, Models
from edge.serve.status import STATUS, reason_of
from edge.serve.tensors import Tensor, from_raw, from_values

DESCRIPTION = Path(__file__).with_name("open_inference_grpc.binpb")
SERVICE = "inference.GRPCInferenceService"
# A datatype -> the field of its elements, where they are not raw.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

Message: TypeAlias = Any  # of a class that is made at run time
Method = Callable[[Message, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[Message]]


def handler(models: Models, metrics: Metrics) -> grpc.GenericRpcHandler:
    """Return what answers the protocol's calls."""
    service = Service(models, metrics)
    methods: dict[str, Method] = {
        "ServerLive": service.server_live,
        "ServerReady": service.server_ready,
        "ModelReady": service.model_ready,
        "ServerMetadata": service.server_metadata,
        "ModelMetadata": service.model_metadata,
        "ModelInfer": service.model_infer,
    }
    rows = {name: grpc.unary_unary_rpc_method_handler(service.guarded(name, do)) for name, do in methods.items()}
    return grpc.method_handlers_generic_handler(SERVICE, rows)


def messages() -> Mapping[str, Any]:
    """Return the classes of the protocol's messages by name."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(DESCRIPTION.read_bytes()).file:
        pool.Add(file)
        names = [message.name for message in file.message_type]
        package = file.package
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in names}


class Service:
    """The protocol's calls."""

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self._models, self._metrics = models, metrics
        self._message = messages()

    def guarded(self, name: str, do: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Return a call from bytes to bytes whose errors are the protocol's."""
        return partial(self._call, self._message[f"{name}Request"], do)

    async def _call(self, kind: Any, do: Method, data: bytes, context: Any) -> bytes:
        try:
            try:
                request = kind.FromString(data)
            except DecodeError:
                raise ServeError("invalid", f"the request is no {kind.DESCRIPTOR.full_name}") from None
            answer = await do(request, context)
            return bytes(answer.SerializeToString())
        except Exception as error:
            reason, text = reason_of(error)
        await context.abort(grpc.StatusCode[STATUS[reason][1]], text)
        raise AssertionError  # abort raises

    async def server_live(self, _: Message, __: Any) -> Message:
        """Tell that the process answers."""
        return self._message["ServerLiveResponse"](live=True)

    async def server_ready(self, _: Message, __: Any) -> Message:
        """Tell whether all models are ready."""
        return self._message["ServerReadyResponse"](ready=self._models.ready)

    async def model_ready(self, request: Message, _: Any) -> Message:
        """Tell whether a model is ready."""
        return self._message["ModelReadyResponse"](ready=self._models.find(request.name, request.version).ready)

    async def server_metadata(self, _: Message, __: Any) -> Message:
        """Describe the server."""
        return self._message["ServerMetadataResponse"](**SERVER)

    async def model_metadata(self, request: Message, _: Any) -> Message:
        """Describe a model."""
        return self._message["ModelMetadataResponse"](**self._models.find(request.name, request.version).metadata())

    async def model_infer(self, request: Message, _: Any) -> Message:
        """Compute."""
        seconds: Mapping[str, float] = {}
        result = "gone"  # a client that leaves cancels this call
        try:
            model = self._models.find(request.model_name, request.model_version)
            answer, seconds = await model.queue.do(partial(self._infer, model, request))
            result = "ok"
        except Exception as error:
            result = reason_of(error)[0]
            raise
        finally:
            self._metrics.count(request.model_name, "grpc", result, seconds)
        return answer

    def _infer(self, model: Model, request: Message, watch: Stopwatch) -> tuple[Message, dict[str, float]]:
        wanted = [one.name for one in request.outputs]
        for one in (*request.inputs, *request.outputs):
            if refused := {"shared_memory_region", "classification"} & set(one.parameters):
                raise ServeError("invalid", f"{', '.join(refused)} is not supported", expected="data in the request")
        found = model.infer(_inputs(request), wanted, watch)
        answer = self._message["ModelInferResponse"](
            model_name=model.name,
            model_version=VERSION,
            id=request.id,
            parameters={
                name: self._message["InferParameter"](double_param=value) for name, value in milliseconds(watch).items()
            },
            outputs=[{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in found],
            raw_output_contents=[one.raw for one in found],
        )
        return answer, watch.seconds


def _inputs(request: Message) -> list[Tensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ServeError(
            "invalid", f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs", expected="one an input"
        )
    if raw:
        pairs = zip(request.inputs, raw, strict=True)
        return [from_raw(one.name, one.datatype, list(one.shape), data) for one, data in pairs]
    return [
        from_values(one.name, one.datatype, list(one.shape), getattr(one.contents, _CONTENTS.get(one.datatype, ""), ()))
        for one in request.inputs
    ]
