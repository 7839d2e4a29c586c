"""Start hb_mapper so that the same inputs give the same bytes; the arguments are hb_mapper's.

A standalone script for the compiler's own Python. Two plain runs of hb_mapper differ because of

- random names of temporary files, which end up in the compiled program: they are numbered here instead, and
  the caller fixes TMPDIR;
- the order of protobuf maps in the metadata: messages are written in deterministic order here;
- the order of sets of strings: the caller sets PYTHONHASHSEED;
- the order of sets of graph objects, which hash by address, so that the length of an environment variable is
  enough to change it: they are numbered here as they are made, and hash by their number;
- absolute paths in the metadata: the caller works at a fixed path.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import signal
import sys
import tempfile
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask the kernel to end us when our parent dies; harmless where it can't."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def number_temporary_files() -> None:
    """Replace tempfile's random names; must come before anything makes a temporary file."""
    # The private name is what every supported CPython (3.8 to 3.10) draws its candidates from.
    tempfile._name_sequence = (f"edge{number:04d}" for number in itertools.count())


def order_protobuf_maps() -> None:
    """Make every message of the vendor's runtime format serialize its maps in sorted order."""
    from google.protobuf.message import Message
    from horizon_tc_ui.hbdtort import runtime_pb2

    for kind in list(vars(runtime_pb2).values()):
        if isinstance(kind, type) and issubclass(kind, Message):
            _deterministic(kind)


def _deterministic(kind: type) -> None:
    plain = kind.SerializeToString

    def serialize(self: object, **options: bool) -> bytes:
        options["deterministic"] = True
        return plain(self, **options)

    kind.SerializeToString = serialize


def number_graph_objects() -> None:
    """Make sets of the compiler's graphs, nodes and variables iterate in an order that repeats."""
    # By the name under which hb_mapper imports them: as hmct.ir they load again, which aborts the process.
    from horizon_nn.ir.onnx_graph import OnnxGraph
    from horizon_nn.ir.onnx_model import OnnxModel
    from horizon_nn.ir.onnx_node import OnnxNode
    from horizon_nn.ir.onnx_variable import OnnxVariable

    numbers = itertools.count()
    for kind in (OnnxGraph, OnnxModel, OnnxNode, OnnxVariable):
        _numbered(kind, numbers)


def _numbered(kind: type, numbers: Iterator[int]) -> None:
    def make(cls: type, *_: object, **__: object) -> object:
        made = object.__new__(cls)
        made.edge_number = next(numbers)
        return made

    kind.__new__ = make
    kind.__hash__ = lambda self: self.edge_number


def main() -> object:
    """Run hb_mapper's own command line."""
    die_with_parent()
    number_temporary_files()
    try:
        order_protobuf_maps()
        number_graph_objects()
    except (ImportError, AttributeError, TypeError) as error:
        print(f"edge: the .bin may differ from run to run: {error}", file=sys.stderr)
    sys.argv[0] = "hb_mapper"
    from horizon_tc_ui.hb_mapper import main as hb_mapper

    return hb_mapper()


if __name__ == "__main__":
    sys.exit(main())
