"""Tell what timm knows about a model's input and classes; run by the compiler's own Python.

Not imported by edge. The model's name is the only argument, such as ``resnet18.a1_in1k`` or ``resnet18``. The last
line of stdout is one JSON object: ``{"known": false, "close", "tags"}`` for a name unknown to timm, else ``{"known":
true, "timm", "architecture", "tag", "repository", "fixed_size", "input_size", "interpolation", "crop_pct",
"crop_mode", "mean", "std", "classes"}``; ``tag`` and ``repository`` are "" where timm has no weights.
"""

from __future__ import annotations

import difflib
import json
import sys
import warnings
from typing import Any


def describe(name: str) -> dict[str, Any]:
    """Return the answer for a model's name."""
    import timm
    from timm.models import get_pretrained_cfg, is_model, list_models, list_pretrained, split_model_name_tag

    architecture, tag = split_model_name_tag(name)
    tags = sorted(list_pretrained(f"{architecture}.*")) if is_model(architecture) else []
    try:
        config = get_pretrained_cfg(name) if is_model(architecture) else None
    except (RuntimeError, KeyError):  # no such tag of a known architecture
        config = None
    if config is None and is_model(architecture) and not tag and not tags:
        from timm.models import model_entrypoint

        config = getattr(model_entrypoint(architecture), "default_cfg", None)
    if config is None:
        everything = list_pretrained() if tag else list_models()
        return {"known": False, "close": difflib.get_close_matches(name, everything, n=5, cutoff=0.6), "tags": tags}
    return {
        "known": True,
        "timm": timm.__version__,
        "architecture": architecture,
        "tag": config.tag or "",
        "repository": config.hf_hub_id or "",
        "fixed_size": bool(config.fixed_input_size),
        "input_size": list(config.input_size),
        "interpolation": config.interpolation,
        "crop_pct": config.crop_pct,
        "crop_mode": config.crop_mode,
        "mean": list(config.mean),
        "std": list(config.std),
        "classes": config.num_classes,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(describe(sys.argv[1])))
