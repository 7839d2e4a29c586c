"""Read an ONNX file, return its facts, copy it, and open it in onnxruntime."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from edge.errors import ModelFileError
from edge.foreign import foreign

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime
    from numpy.typing import NDArray

_LONGEST = 8192  # pixels of a side of the input; far above what the BPU runs at a useful speed
_MOST_VALUES = 3 * _LONGEST**2


@frozen
class GraphFacts:
    """What later stages need to know about a graph."""

    input_name: str
    input_shape: tuple[int, ...]  #: of the first input; static, batch first.
    output_name: str
    output_shape: tuple[int, ...]  #: static; of the first output. The last axis is the classes.
    opset: int  #: of the default domain.
    ir: int  #: IR version of the file.
    node_names: tuple[str, ...]  #: in graph order.
    parameters: int  #: elements of all float initializers.
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()  #: name and shape of each, where there are several.

    @property
    def all_inputs(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of every input, in graph order."""
        return self.inputs or ((self.input_name, self.input_shape),)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Load and check an ONNX file.

    Raises:
        ModelFileError: missing, not ONNX, truncated, or invalid by the ONNX checker.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise missing_onnx(path)
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        _require_whole(model.graph.initializer)
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        if other := foreign(path):
            raise ModelFileError(
                f"{path} {other.what}", expected="an ONNX file", remedy=other.remedy or "export it as ONNX"
            ) from error
        require_data(path)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelFileError(
            f"{path} is not a valid ONNX file: {reason[:200]}",
            expected="a complete file that onnx.checker accepts",
            remedy="export or download it again",
        ) from error
    return model


def _require_whole(tensors: Iterable[onnx.TensorProto]) -> None:
    """Raise ValueError for a tensor whose data and shape disagree: the checker does not compare them for all types."""
    import onnx

    for tensor in tensors:
        if tensor.raw_data and tensor.data_type <= onnx.TensorProto.COMPLEX128:  # whole bytes an element
            size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            if len(tensor.raw_data) != size:
                raise ValueError(f"tensor {tensor.name!r} has {len(tensor.raw_data)} bytes, its shape says {size}")


def external_names(path: Path) -> list[str]:
    """Return the names of the files beside an ONNX file that hold its tensors, sorted.

    Raises:
        DecodeError, ValueError, OSError: it can't be read as ONNX.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    return sorted(
        {entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"}
    )


def require_data(path: Path) -> None:
    """Fail if a file beside an ONNX file that holds its tensors is missing; other faults are not looked for.

    Raises:
        ModelFileError: it is; the message says what to copy where.
    """
    from google.protobuf.message import DecodeError

    try:
        missing = [name for name in external_names(path) if not (path.parent / name).is_file()]
    except (DecodeError, ValueError, OSError):
        return
    if missing:
        raise ModelFileError(
            f"{path} keeps its weights in {missing[0]}, which is not beside it",
            expected="the .onnx file together with its file of weights",
            remedy=f"copy {missing[0]} to {path.parent.resolve()}, from where the model was exported",
        )


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file in stock onnxruntime, one thread per run; several threads may run it at once."""
    return _opened(str(path), path.name)


def open_exposed(model: onnx.ModelProto, names: Iterable[str]) -> onnxruntime.InferenceSession:
    """Open a model in stock onnxruntime, one thread per run, with these inner float values as further outputs."""
    import onnx

    exposed = copied(model)
    known = {value.name for value in exposed.graph.output}
    for name in dict.fromkeys(names):
        if name not in known:
            exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return _opened(exposed.SerializeToString(), model.graph.name or "the model")


def _opened(source: str | bytes, name: str) -> onnxruntime.InferenceSession:
    """Open a model; ModelFileError if onnxruntime refuses it."""
    with refusals(f"onnxruntime can't load {name}"):
        return session(source)


@contextmanager
def refusals(
    seen: str, *, expected: str = "", remedy: str = "export or build it again: onnxruntime itself refuses the file"
) -> Iterator[None]:
    """Raise ModelFileError with what ``seen`` says where onnxruntime fails; its exceptions share no public base."""
    try:
        yield
    except Exception as error:  # over 2 GB protobuf's comes first
        cause = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{seen}: {cause}", expected=expected, remedy=remedy) from error


def session(
    source: str | bytes, *, threads: int = 1, config: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """Open a model, a path or bytes, in stock onnxruntime on the CPU; nothing reaches the console.

    With one thread per run, sums are added in the same order on every machine.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors come back as exceptions
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an independent copy of a model."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of the default domain; 0 when none is given."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def facts(model: onnx.ModelProto, origin: str = "the model") -> GraphFacts:
    """Return the facts of a checked graph; messages call it ``origin``.

    Raises:
        ModelFileError: a dynamic shape, no output, or an input that is not float32.
    """
    import onnx

    graph = model.graph
    inputs = inputs_of(model, origin)
    input_name, input_shape = inputs[0]
    if not graph.output:
        raise ModelFileError(
            f"{origin} has no output",
            expected="one output of class scores",
            remedy="export the whole classifier, with its head",
        )
    return GraphFacts(
        input_name=input_name,
        input_shape=input_shape,
        output_name=graph.output[0].name,
        output_shape=_output_shape(model, origin),
        opset=opset_of(model),
        ir=model.ir_version,
        node_names=tuple(node.name for node in graph.node),
        parameters=sum(
            math.prod(tensor.dims) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
        ),
        inputs=inputs if len(inputs) > 1 else (),
    )


def fixed_input(
    model: onnx.ModelProto, origin: str, size: tuple[int, int] | None = None
) -> tuple[onnx.ModelProto, str]:
    """Return the model with a static image input, and what was fixed; the model itself where nothing was open.

    Args:
        size: (height, width) in pixels for open sides of the image; an open batch becomes 1.

    Raises:
        ModelFileError: a side of the image is open, and no size is given.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    dims = inputs[0].type.tensor_type.shape.dim if len(inputs) == 1 else ()
    given = [dim.dim_value for dim in dims]
    if len(given) != 4 or min(given) > 0:
        return model, ""
    shown = _shown(dims)
    first = 2 if given[1] == 3 or given[3] != 3 else 1  # of the image's sides: NCHW or NHWC
    sides = [place for place in (first, first + 1) if given[place] <= 0]
    if sides and size is None:
        raise ModelFileError(
            f"{origin}: the input {inputs[0].name!r} is {shown}: the size of the image is open",
            expected="the size that the network was trained with",
            remedy=_size_inside(model) or "add --crop 224, or another size (HEIGHTxWIDTH)",
        )
    result = copied(model)
    value = next(value for value in result.graph.input if value.name == inputs[0].name)
    fixed = value.type.tensor_type.shape.dim
    for place, length in ((0, 1), *((first + axis, side) for axis, side in enumerate(size or ()))):
        if given[place] <= 0:
            fixed[place].dim_value = length
    del result.graph.value_info[:]
    return result, f"the file's input is {shown}; it is built for {_shown(fixed)}"


def _size_inside(model: onnx.ModelProto) -> str:
    """Return the option with the size in the file's metadata, as ultralytics writes it; empty if there is none."""
    text = next((entry.value for entry in model.metadata_props if entry.key == "imgsz"), "")
    found = re.fullmatch(r"\[(\d{1,5}), (\d{1,5})\]", text)
    return f"add --crop {found[1]}x{found[2]}, the imgsz in the file, or another size" if found else ""


def missing_onnx(path: Path) -> ModelFileError:
    """Return the error of an ONNX that is not there; it names one of nearly that name beside it."""
    beside = {one.stem: one for one in path.parent.glob("*.onnx")} if path.parent.is_dir() else {}
    near = difflib.get_close_matches(path.stem, beside, n=1)
    remedy = f"edge build {beside[near[0]]}" if near else ""
    return ModelFileError(f"{path} does not exist", expected="a path of an .onnx file", remedy=remedy or None)


def image_input(model: onnx.ModelProto, origin: str = "the model") -> tuple[str, tuple[int, ...]]:
    """Return the name and static shape of the one float image input; output shapes may be unknown.

    Raises:
        ModelFileError: several inputs, a dynamic shape, or no float32 input.
    """
    inputs = _open_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelFileError(
            f"{origin} has {len(inputs)} inputs ({names})",
            expected="one image input",
            remedy="export the part that takes the image, with the other inputs as constants"
            + "; or --task raw, which takes several inputs" * (len(inputs) > 1),
        )
    return _checked_input(inputs[0], origin)


def inputs_of(model: onnx.ModelProto, origin: str = "the model") -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return name and static shape of each input, in graph order.

    Raises:
        ModelFileError: none, a dynamic shape, or one that is not float32.
    """
    inputs = _open_inputs(model)
    if not inputs:
        raise ModelFileError(f"{origin} has no input", expected="an input of float32")
    return tuple(_checked_input(value, origin) for value in inputs)


def _open_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _checked_input(value: onnx.ValueInfoProto, origin: str) -> tuple[str, tuple[int, ...]]:
    """Return name and static shape of an input that is float32 and of a size that can be."""
    import onnx

    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        known = {number: name for name, number in onnx.TensorProto.DataType.items()}
        kind = known.get(value.type.tensor_type.elem_type, "of a type that ONNX does not know")
        raise ModelFileError(
            f"{origin}: input {value.name!r} is {kind}",
            expected="a float32 input",
            remedy="export it with a float32 example, such as torch.zeros(1, 3, 224, 224)",
        )
    shape = _static_shape(value, origin, "input")
    if math.prod(shape) > _MOST_VALUES:  # before anything of that size is made
        raise ModelFileError(
            f"{origin}: the input {value.name!r} is {'x'.join(map(str, shape))}",
            expected=f"one image of at most {_LONGEST}x{_LONGEST} pixels",
            remedy="export it for the size of the camera's image, or smaller",
        )
    return value.name, shape


def _output_shape(model: onnx.ModelProto, origin: str) -> tuple[int, ...]:
    """Return the shape of the first output; if the exporter left it open, run the model to find it."""
    output = model.graph.output[0]
    if any(dim.dim_value <= 0 for dim in output.type.tensor_type.shape.dim):
        (scores,) = values_of(model, [output.name], origin)
        return tuple(map(int, scores.shape))
    return _static_shape(output, origin, "output")


def values_of(
    model: onnx.ModelProto, names: Sequence[str], origin: str, image: NDArray[np.float32] | None = None
) -> list[Any]:
    """Run a model once and return values of its graph, its outputs or inner ones; all inputs are zero by default.

    Raises:
        ModelFileError: onnxruntime can't run it.
    """
    import numpy as np
    import onnx

    exposed = copied(model)
    have = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    feed = {name: np.zeros(shape, np.float32) if image is None else image for name, shape in inputs_of(model, origin)}
    with refusals(
        f"{origin}: onnxruntime can't run it, and so can't tell its outputs",
        expected="a network that onnxruntime runs, with a static input such as 1x3x224x224",
        remedy="export it again for one fixed size, from torch with opset_version=11, dynamo=False",
    ):
        return list(session(exposed.SerializeToString()).run(list(names), feed))


def _static_shape(value: onnx.ValueInfoProto, origin: str, role: str) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    if not dims or any(d.dim_value <= 0 for d in dims):
        raise ModelFileError(
            f"{origin}: {role} {value.name!r} has the dynamic shape {_shown(dims) or 'unknown'}",
            expected="one image of a fixed size, such as 1x3x224x224",
            remedy="export it with a fixed size and no dynamic axes",
        )
    return tuple(d.dim_value for d in dims)


def _shown(dims: Iterable[onnx.TensorShapeProto.Dimension]) -> str:
    return "x".join(str(d.dim_value) if d.HasField("dim_value") else (d.dim_param or "?") for d in dims)
