"""The preprocessing of a mindcv network, from mindcv's own table of networks or a training YAML."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

from edge.errors import InputError, UsageError
from edge.sources.declared import Declared, numbers
from edge.sources.paddleclas import load_yaml
from edge.specs.schema import Interpolation

# The values of mindcv 0.3.0 for each of its networks, and the defaults of its evaluation.
TABLE = "mindcv.json"


@cache
def table() -> Mapping[str, Any]:
    """Return ``{"mindcv": version, "defaults": {...}, "networks": {name: {...}}}``."""
    data: Mapping[str, Any] = json.loads(Path(__file__).with_name(TABLE).read_text(encoding="utf-8"))
    return data


def of_network(name: str) -> Declared:
    """Return mindcv's values for one of its networks.

    Raises:
        UsageError: mindcv has no such network; close names are given.
    """
    known = table()["networks"]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise UsageError(
            f"mindcv {table()['mindcv']} has no network {name!r}",
            expected=", ".join(close) if close else f"one of its {len(known)} networks, such as convnext_tiny",
            remedy=f"--network {close[0]}" if close else "--network convnext_tiny",
        )
    origin = f"mindcv {table()['mindcv']}"
    stated = known[name]
    notes = []
    missing = [key for key in ("mean", "std", "crop_pct", "interpolation") if key not in stated]
    if missing:
        notes.append(
            f"{origin} states no {', '.join(missing)} for {name}: the defaults of its evaluation are used; "
            "a network trained in another way needs --source-config FILE or the options"
        )
    return _declared({**table()["defaults"], **stated}, origin, name, notes)


def read_config(path: Path) -> Declared:
    """Return the values of a training YAML of mindcv, such as ``configs/convnext/convnext_tiny_ascend.yaml``.

    Raises:
        InputError: it is not YAML, not such a configuration, or a value can't be read.
    """
    data = load_yaml(path)
    keys = ("image_resize", "crop_pct", "mean", "std", "interpolation", "num_classes", "model")
    stated = {key: data[key] for key in keys if data.get(key) is not None}
    if not stated:
        raise InputError(f"{path} states no preprocessing", expected=f"mindcv's keys: {', '.join(keys)}")
    name = stated.get("model")
    return _declared({**table()["defaults"], **stated}, path.name, name if isinstance(name, str) else None, [])


def _declared(stated: Mapping[str, Any], origin: str, name: str | None, notes: list[str]) -> Declared:
    # A network's input size is (channels, height, width); the evaluation's default is one number.
    size = stated["input_size"][1:] if "input_size" in stated else stated["image_resize"]
    height, width = (int(value) for value in numbers(size, 2, "image_resize", origin))
    (share,) = numbers(stated["crop_pct"], 1, "crop_pct", origin)
    if not 0 < share <= 2:
        raise InputError(f"{origin}: crop_pct is {share:g}", expected="above 0, most often 0.875 to 1")
    resize = math.floor(min(height, width) / share)
    if resize < max(height, width):
        notes.append(f"{origin} resizes to {resize} and pads to {height}x{width}; here it is not padded")
        resize = max(height, width)
    kind = str(stated["interpolation"]).lower()
    if kind not in get_args(Interpolation):
        notes.append(f"{origin} resizes with {kind}, which edge does not have: bilinear is used, as in mindcv")
        kind = "bilinear"
    mean = numbers(stated["mean"], 3, "mean", origin)
    std = numbers(stated["std"], 3, "std", origin)
    # mindcv's images are in 0..255; some of its networks state 0..1, as timm does.
    unit = 255.0 if max(std) <= 1 else 1.0
    classes = stated.get("num_classes")
    return Declared(
        origin,
        {
            "crop": (height, width),
            "resize": resize,
            "interpolation": kind,
            "color": "rgb",
            "mean": tuple(round(value * unit, 6) for value in mean),
            "std": tuple(round(value * unit, 6) for value in std),
            "layout": "NCHW",
        },
        classes if isinstance(classes, int) else None,
        None,
        name,
        tuple(notes),
    )
