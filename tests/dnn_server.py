"""The other end of the tests' libdnn (``cpp/libdnn.cpp``): a program, executed in Python for a process in C++."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from tempfile import TemporaryDirectory

import numpy as np
from attrs import frozen

from edge.runtime import Net

F32, S8, S16, S32 = 13, 8, 11, 14  # of hbDNNDataType
Run = Callable[[np.ndarray], Sequence[np.ndarray]]


@frozen
class Output:
    """An output as libdnn describes it; the strides are those of ``dtype`` without padding by default."""

    shape: tuple[int, ...]
    kind: int = F32
    strides: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    zeros: tuple[int, ...] = ()
    axis: int = 0

    def described(self) -> bytes:
        def eight(values: Sequence[int]) -> list[int]:
            return [*values, *[0] * (8 - len(values))]

        numbers = [
            self.kind, len(self.shape), *eight(self.shape), *eight(self.laid), self.bytes, self.axis,
            len(self.scales), len(self.zeros),
        ]  # fmt: skip
        return struct.pack(
            f"<{len(numbers)}i{len(self.scales)}f{len(self.zeros)}b", *numbers, *self.scales, *self.zeros
        )

    @property
    def laid(self) -> tuple[int, ...]:
        item = {F32: 4, S32: 4, S16: 2, S8: 1}[self.kind]
        return self.strides or tuple(item * int(np.prod(self.shape[at + 1 :])) for at in range(len(self.shape)))

    @property
    def bytes(self) -> int:
        return self.laid[0] * self.shape[0]

    def packed(self, values: np.ndarray) -> bytes:
        """Return values as they lie in memory, padding filled with rubbish."""
        memory = np.full(self.bytes, 0x7F, np.uint8)
        np.ndarray(values.shape, values.dtype, memory.data, strides=self.laid)[...] = values
        return memory.tobytes()


@contextmanager
def serving(size: tuple[int, int], outputs: Sequence[Output], run: Run) -> Iterator[None]:
    """Serve processes of C++, one after the other, at a socket; ``size`` is (height, width) of the input."""
    input_bytes = size[0] * size[1] * 3 // 2
    told = struct.pack("<3i", *size, len(outputs)) + b"".join(output.described() for output in outputs)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.sendall(told)
                while len(data := connection.recv(input_bytes, socket.MSG_WAITALL)) == input_bytes:
                    values = run(np.frombuffer(data, np.uint8))
                    connection.sendall(b"".join(o.packed(v) for o, v in zip(outputs, values, strict=True)))

    # A socket's path may have 108 bytes at most, which a test's folder can exceed.
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        os.environ["DNN_SOCKET"] = f"{folder}/socket"
        listener.bind(os.environ["DNN_SOCKET"])
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            del os.environ["DNN_SOCKET"]


def serving_net(net: Net) -> AbstractContextManager[None]:
    """Serve a loaded program of one image."""
    outputs = [Output(tensor.shape) for tensor in net.info.outputs]
    return serving(net.info.inputs[0].size, outputs, net.run)
