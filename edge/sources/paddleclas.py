"""The preprocessing of a PaddleClas model, from its own YAML: inference.yml, a training or a deploy config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from edge.errors import InputError
from edge.files import read_yaml
from edge.sources.declared import Declared, names_of, number, numbers
from edge.specs.schema import Interpolation

# Keys of the operations before and after the network in PaddleClas's kinds of YAML.
_TRANSFORMS = (
    ("PreProcess", "transform_ops"),
    ("Infer", "transforms"),
    ("DataLoader", "Eval", "dataset", "transform_ops"),
)
_POST = (("PostProcess",), ("Infer", "PostProcess"))
_NEAREST = {"lanczos": "bicubic", "hamming": "bilinear", "box": "area"}
_IGNORED = ("KeepKeys", "ToCHWImage", "ToBatch")
NAMES = ("inference.yml", "inference.yaml", "infer_cfg.yml")
# Some configs round 1/255 to 0.00392157.
_SCALE_TOLERANCE = 0.05


def find_config(folder: Path) -> Path | None:
    """Return the configuration that PaddleClas exports beside a model, if there is one."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_config(path: Path) -> Declared:
    """Return the values of a PaddleClas YAML.

    Raises:
        InputError: it is not YAML, not a PaddleClas configuration, or a value can't be read.
    """
    data = load_yaml(path)
    origin = path.name
    operations = next((found for keys in _TRANSFORMS if (found := _at(data, keys)) is not None), None)
    if not isinstance(operations, list):
        raise InputError(
            f"{path} has no operations on images",
            expected="PreProcess: transform_ops, Infer: transforms, or DataLoader: Eval: dataset: "
            "transform_ops, as PaddleClas writes them",
            remedy="name PaddleClas's own configuration with --source-config FILE, or state --mean, --std, "
            "--resize and --crop",
        )
    values: dict[str, Any] = {"color": "rgb", "layout": "NCHW"}
    notes: list[str] = []
    for name, options in _operations(operations, origin):
        if name == "DecodeImage":
            bgr = options.get("to_rgb") is False or str(options.get("img_mode", "RGB")).upper() == "BGR"
            values["color"] = "bgr" if bgr else "rgb"
        elif name == "ResizeImage":
            _resize(options, values, notes, origin)
        elif name == "CropImage":
            if "resize" in values and values["resize"] is None:
                width, height = values.pop("stretched")
                values["resize"] = min(width, height)
                notes.append(
                    f"{origin} stretches the image to {width}x{height} and then crops; here the shorter "
                    f"side becomes {values['resize']} and the aspect ratio stays"
                )
            width, height = _size(options.get("size"), "CropImage: size", origin)
            values["crop"] = (height, width)
        elif name == "NormalizeImage":
            values["mean"], values["std"] = _normalise(options, origin)
        elif name not in _IGNORED:
            notes.append(f"{origin}: the operation {name} is unknown and left out; check the preprocessing")
    stretched = values.pop("stretched", None)
    if stretched is not None:
        values.setdefault("crop", stretched[::-1])
    shape = _at(data, ("Global", "image_shape"))
    if "crop" not in values and isinstance(shape, list) and len(shape) == 3:
        values["crop"] = _size(shape[1:], "Global: image_shape", origin)  # height first, here
    names = _names(data, path, notes)
    classes = _at(data, ("Arch", "class_num")) or _at(data, ("Global", "class_num"))
    model = _at(data, ("Global", "model_name")) or _at(data, ("Arch", "name"))
    return Declared(
        origin,
        values,
        classes if isinstance(classes, int) else None,
        names,
        model if isinstance(model, str) else None,
        tuple(notes),
    )


def load_yaml(path: Path) -> Mapping[str, Any]:
    """Return the mapping in a framework's YAML.

    Raises:
        InputError: it can't be read, or is not a mapping.
    """
    try:
        data = read_yaml(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", expected="the framework's own YAML") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} can't be read as YAML: {' '.join(str(error).split())[:200]}",
            expected="the YAML that PaddleClas trained with",
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no mapping", expected="the framework's own YAML")
    return data


def _at(data: object, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(data, Mapping):
            return None
        data = data.get(key)
    return data


def _operations(items: list[object], origin: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for item in items:
        pairs = item.items() if isinstance(item, Mapping) else [(item, None)]
        for name, options in pairs:
            if options is not None and not isinstance(options, Mapping):
                raise InputError(f"{origin}: {name} has {options!r}", expected="a mapping of options")
            yield str(name), options or {}


def _resize(options: Mapping[str, Any], values: dict[str, Any], notes: list[str], origin: str) -> None:
    if options.get("resize_short") is not None:
        values["resize"] = _size(options["resize_short"], "ResizeImage: resize_short", origin)[0]
    elif options.get("size") is not None:
        values["resize"] = None
        values["stretched"] = _size(options["size"], "ResizeImage: size", origin)
    wish = options.get("interpolation")
    kind = str(wish or "bilinear").lower()
    known = kind in get_args(Interpolation)
    values["interpolation"] = kind if known else _NEAREST.get(kind, "bilinear")
    if not known:
        notes.append(f"{origin} resizes with {wish}, which edge does not have: {values['interpolation']} is used")


def _size(value: object, what: str, origin: str) -> tuple[int, int]:
    """Return two lengths, usually (width, height); a single number stands for both."""
    first, second = numbers(value, 2, what, origin)
    if min(first, second) < 1 or first % 1 or second % 1:
        raise InputError(f"{origin}: {what} is {value!r}", expected="whole pixels")
    return int(first), int(second)


def _normalise(
    options: Mapping[str, Any], origin: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std in 0..255 of (x * scale - mean) / std."""
    written = options.get("scale")
    try:
        scale = 1 / 255 if written is None else number(written)
        divisor = 1 / scale
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{origin}: NormalizeImage: scale is {written!r}", expected="a number such as 1.0/255.0"
        ) from error
    if abs(divisor - 255) < _SCALE_TOLERANCE:
        divisor = 255.0
    mean = numbers(options.get("mean", [0.485, 0.456, 0.406]), 3, "NormalizeImage: mean", origin)
    std = numbers(options.get("std", [0.229, 0.224, 0.225]), 3, "NormalizeImage: std", origin)
    a, b, c = (round(value * divisor, 6) for value in mean)
    d, e, f = (round(value * divisor, 6) for value in std)
    return (a, b, c), (d, e, f)


def _names(data: Mapping[str, Any], path: Path, notes: list[str]) -> tuple[str, ...] | None:
    for keys in _POST:
        post = _at(data, keys)
        options = post.get("Topk", post) if isinstance(post, Mapping) else None
        if not isinstance(options, Mapping):
            continue
        listed = options.get("label_list")
        if isinstance(listed, list) and listed:
            return tuple(map(str, listed))
        file = options.get("class_id_map_file")
        if not isinstance(file, str):
            continue
        # The file is relative to the folder where PaddleClas starts, usually its own checkout.
        places = (Path(file), path.parent / file, path.parent / Path(file).name)
        found = next((place for place in places if place.is_file()), None)
        if found is not None:
            try:
                return names_of(found.read_text(encoding="utf-8"), str(found))
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{found} can't be read: {error}", expected="text in UTF-8") from error
        notes.append(f"the class names of {path.name} are in {file}, which does not exist here; use --labels FILE")
    return None
