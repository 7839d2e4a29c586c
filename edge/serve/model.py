"""A served model: tensors of a request in, tensors of the answer out."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from edge import __version__
from edge.errors import BackendError, ImageError, ServeError
from edge.images.headers import declared_size
from edge.images.preprocess import decode
from edge.runtime import Net
from edge.runtime.protocol import Array
from edge.runtime.protocol import Tensor as Port
from edge.runtime.steps import Stopwatch, answer, program_input
from edge.serve.queue import Queue
from edge.serve.tensors import NAMES, Tensor

VERSION = "1"
IMAGE = "image"  # the only input of a program that takes one image: backends name it each in their own way
ANSWER = "edge.answer"  # an output that every model has beside its own, given where it is asked for by name
MOST_PIXELS = 50_000_000  # of an image in a request: 150 MB when decoded
SERVER = {"name": "edge", "version": __version__, "extensions": ["binary_tensor_data"]}


@frozen(eq=False)
class Model:
    """A program that is open, and its queue."""

    name: str
    net: Net
    queue: Queue
    failed: threading.Event = field(factory=threading.Event)  #: set while the last run failed.

    @property
    def ready(self) -> bool:
        """Whether a request would be answered."""
        return self.queue.open and not self.failed.is_set() and not self.net.ended

    @property
    def inputs(self) -> dict[str, Port]:
        """The program's inputs in its order, by the names that clients use."""
        ports = self.net.info.inputs
        return {IMAGE: ports[0]} if [port.nv12 for port in ports] == [True] else {port.name: port for port in ports}

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's description of it."""
        net = self.net
        inputs = [
            {"name": name, "datatype": NAMES[port.dtype], "shape": _shape(port)} for name, port in self.inputs.items()
        ]
        outputs = [
            {"name": name, "datatype": "FP32", "shape": list(one.shape)}
            for name, one in zip(net.output_names, net.info.outputs, strict=True)
        ]
        platform = f"edge_{net.backend}"
        return {"name": self.name, "versions": [VERSION], "platform": platform, "inputs": inputs, "outputs": outputs}

    def infer(self, given: Sequence[Tensor], wanted: Sequence[str], watch: Stopwatch) -> list[Tensor]:
        """Compute.

        Args:
            given: a tensor an input. One that takes an image takes JPEG or PNG (BYTES), RGB of any size (UINT8,
                height x width x 3) or packed NV12 (UINT8).
            wanted: names of outputs; empty for all of the program's own.

        Raises:
            ServeError: an input is missing, too many or of another kind; or there is no such output.
            EdgeError: an image can't be read, or the runtime failed.
        """
        net = self.net
        names = net.output_names
        for name in wanted:
            if name not in names and name != ANSWER:
                raise ServeError("unknown", f"{self.name} has no output {name!r}", expected=", ".join([*names, ANSWER]))
        by_name = {one.name: one for one in given}
        ports = self.inputs
        if sorted(ports) != sorted(one.name for one in given):
            raise ServeError(
                "invalid",
                f"inputs {', '.join(by_name) or 'none'} for {self.name}",
                expected=f"each of {', '.join(ports)} once",
            )
        inputs, size = list[Array](), (0, 0)
        for name, port in ports.items():
            taken, sides = _taken(net, by_name[name], port, watch)
            inputs, size = [*inputs, taken], sides or size
        restarts = net.restarts
        try:
            outputs = net.run(*inputs)
        except BackendError:
            if net.restarts == restarts:  # else the new process has given the test image's answer
                self.failed.set()
            raise
        self.failed.clear()
        watch.lap("run")
        found = dict(zip(names, outputs, strict=True))
        made = [Tensor(name, found[name].shape, found[name]) for name in wanted or names if name in found]
        if ANSWER in wanted:
            text = json.dumps(answer(net, outputs, size), ensure_ascii=False).encode()
            made.insert(list(wanted).index(ANSWER), Tensor(ANSWER, (1,), [text]))
        watch.lap("post")
        return made


class Models(Mapping[str, Model]):
    """The models of a server, by name."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = {model.name: model for model in models}

    def __getitem__(self, name: str) -> Model:
        return self._models[name]

    def __iter__(self) -> Any:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str, version: str = "") -> Model:
        """Return a model; a version that is not named is the only one.

        Raises:
            ServeError: there is none.
        """
        if name not in self._models:
            raise ServeError("unknown", f"there is no model {name!r}", expected=", ".join(self._models))
        if version not in ("", VERSION):
            raise ServeError("unknown", f"{name} has no version {version!r}", expected=VERSION)
        return self._models[name]

    @property
    def ready(self) -> bool:
        """Whether all are."""
        return all(model.ready for model in self.values())

    @property
    def largest(self) -> int:
        """Bytes at most of a request: an image file, or the numbers of all inputs as text."""
        numbers = (sum(port.elements for port in model.net.info.inputs) for model in self.values())
        return max(16 << 20, *(count * 16 for count in numbers))


def _shape(port: Port) -> list[int]:
    if not port.nv12:
        return list(port.shape)
    height, width = port.size
    return [height * 3 // 2, width]


def _taken(net: Net, tensor: Tensor, port: Port, watch: Stopwatch) -> tuple[Array, tuple[int, int] | None]:
    """Return what the program takes of a tensor, and the size of the image that it is."""
    value = tensor.value
    if not port.nv12:
        if isinstance(value, list):
            raise ServeError(
                "invalid", f"input {tensor.name!r} is BYTES", expected=f"{NAMES[port.dtype]} {list(port.shape)}"
            )
        return value, None
    if isinstance(value, list):
        rgb = _image(tensor, value)
        watch.lap("decode")
    elif value.dtype == np.uint8 and value.shape[-1:] == (3,) and value.size and value.ndim - 3 in (0, 1):
        rgb = value.astype(np.uint8, copy=False)[0] if value.ndim == 4 else value.astype(np.uint8, copy=False)
        if value.ndim == 4 and len(value) != 1:
            raise ServeError("invalid", f"{len(value)} images in input {tensor.name!r}", expected="one a request")
    elif value.dtype == np.uint8 and value.size == port.elements:
        return value, net.preprocess.crop if net.preprocess else None
    else:
        raise ServeError(
            "invalid",
            f"input {tensor.name!r} is {value.dtype} {list(value.shape)}",
            expected=f"a JPEG or PNG as BYTES [1], RGB as UINT8 [height, width, 3], or NV12 as UINT8 {_shape(port)}",
        )
    return program_input(net, rgb, watch), (rgb.shape[0], rgb.shape[1])


def _image(tensor: Tensor, files: Sequence[bytes]) -> NDArray[np.uint8]:
    if len(files) != 1:
        raise ServeError("invalid", f"{len(files)} images in input {tensor.name!r}", expected="one a request")
    sides = declared_size(files[0])
    if sides is None or sides[0] * sides[1] > MOST_PIXELS:
        seen = "no JPEG or PNG" if sides is None else f"an image of {sides[0]}x{sides[1]}"
        raise ServeError(
            "invalid",
            f"input {tensor.name!r} is {seen}",
            expected=f"a JPEG or PNG of at most {MOST_PIXELS // 10**6} million pixels",
        )
    try:
        return decode(files[0], f"input {tensor.name!r}")
    except ImageError as error:  # its remedy is for a file here
        raise ServeError(
            "invalid",
            f"{error.seen}: {len(files[0]):,} bytes came",
            expected=error.expected or "a whole JPEG or PNG",
            remedy="compare with the size of your file, open it in a viewer, and send all its bytes as they are",
        ) from error
