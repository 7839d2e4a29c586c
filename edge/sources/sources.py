"""Decide which weights a build uses, and get them onto this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve, frozen

from edge.errors import DownloadError, InputError, ModelFileError, SpecError, ToolchainMissing, UsageError
from edge.files import sha256_of
from edge.progress import SILENT, Reporter
from edge.sources import mindcv
from edge.sources.check import PARAMETER_TOLERANCE, inspect_onnx, sha256_with_data
from edge.sources.convert import WORKERS
from edge.sources.download import fetch
from edge.sources.framework_files import mindspore_file, paddle_files, require_torchscript
from edge.specs import ModelSpec, is_shipped
from edge.specs.load import zoo_dir
from edge.specs.request import Weights
from edge.specs.schema import OWN_FILES

if TYPE_CHECKING:
    from edge.toolchain.found import Toolchain

SourceName = Literal["timm", "vendor", "demo", "random", "onnx", "torchscript", "paddle", "mindspore"]
Finder = Callable[[], "Toolchain | None"]

# Suffix of all file names, so that weights of no real model are recognized.
SUFFIX = {"demo": "_demo", "random": "_random"}
WORKER = "export_timm.py"
_HAS_EXPORTER = "import sys, importlib.util as u; sys.exit(not all(u.find_spec(m) for m in ('torch', 'timm', 'onnx')))"


@frozen
class Resolved:
    """A concrete choice of weights, present on this machine."""

    source: SourceName  #: where they come from.
    name: str  #: of the exported file and of all that follows: the model's, with ``_demo`` or ``_random``.
    tag: str  #: timm tag, URL or file name; for ``random`` the timm tag of the architecture.
    file: str | None  #: absolute path of the file; None for ``random``.
    sha256: str | None  #: of the file (with its external data, if any); None for ``random``.
    seed: int | None = None  #: of ``random``; else None.
    classes: int | None = None  #: number of scores in the spec; None takes the number of the weights.
    network: str | None = None  #: mindcv's name of the network that a MindSpore file holds.
    #: published millions of parameters of a zoo model; a user's file built under its name must have them. Else None.
    published_m: float | None = None

    @property
    def framework(self) -> str | None:
        """The framework whose managed environment must export them; None if none must."""
        return self.source if self.source in WORKERS else None

    @property
    def needs_toolchain(self) -> bool:
        """Whether the compiler's Python must export them."""
        return self.source in ("timm", "random", "torchscript")

    def identity(self) -> dict[str, Any]:
        """Return everything that the exported file depends on, as JSON values, except input size and toolchain."""
        needed = WORKER if self.needs_toolchain else WORKERS.get(self.source)
        workers = Path(__file__).resolve().parent.parent / "toolchain" / "workers"
        promised = {} if self.published_m is None else {"published_m": self.published_m}
        return {
            **promised,
            "source": self.source,
            "name": self.name,
            "tag": self.tag,
            "sha256": self.sha256,
            "seed": self.seed,
            "classes": self.classes,
            "network": self.network,
            "worker": sha256_of(workers / needed) if needed else None,
        }


def choose_weights(
    spec: ModelSpec,
    weights: Weights = "auto",
    *,
    toolchain: Finder | None = None,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> Resolved:
    """Choose weights and download them if needed.

    ``auto`` takes the spec's own file (ONNX, TorchScript, PaddlePaddle, MindSpore) if it names one, else the
    first available of timm, vendor, demo, with one warning for each that is not. A named source is used, or an
    error is raised.

    Args:
        toolchain: finds the compiler, whose Python exports timm models; called only if needed. Without it,
            ``export`` checks whether there is a compiler.
        seed: for ``random``.
        reporter: told of downloads and of the sources tried.

    Raises:
        UsageError: the model has no such source.
        DownloadError: the named source, or every source of ``auto``, is not available.
        ToolchainMissing: timm or random without a Python that exports.
        ModelFileError: the vendor's or the user's file is another model.
        WorkspaceError: the download cache can't be written.
    """
    ways: dict[str, Callable[[], Resolved]] = {
        "timm": lambda: _timm(spec, toolchain, reporter),
        "vendor": lambda: _vendor(spec, reporter),
        "demo": lambda: _demo(spec),
        "random": lambda: _random(spec, toolchain, seed),
    }
    if weights != "auto":
        if weights not in ways:
            raise UsageError(f"--weights {weights}", expected="auto, timm, vendor, demo, random")
        return ways[weights]()
    for kind in OWN_FILES:
        if (named := getattr(spec.sources, kind)) is not None:
            return _own(spec, kind, Path(named).expanduser().resolve(), toolchain)
    offered = [name for name in ("timm", "vendor", "demo") if getattr(spec.sources, name) is not None]
    tried = []
    for number, name in enumerate(offered):
        try:
            return ways[name]()
        except (DownloadError, ToolchainMissing, InputError) as error:
            following = offered[number + 1 : number + 2]
            tried.append(f"{name} weights: {error.seen.removeprefix(f'{name} weights: ')}")
            if following:
                reporter.warn(f"{tried[-1]}; trying {following[0]}")
    if not offered:
        raise SpecError(
            f"{spec.name}: sources names nothing",
            expected=f"one of timm, vendor, {', '.join(OWN_FILES)}",
            remedy="in the model's YAML: sources: {onnx: net.onnx}, a file beside it",
        )
    random = "add --weights random to the command (speed only, no Top-1); or " if spec.sources.timm else ""
    raise DownloadError(
        f"{spec.name}: no weights are available\n  " + "\n  ".join(tried),
        remedy=f"connect to the network and try again; or {random}build your own file: edge build net.onnx",
    )


def _own(spec: ModelSpec, kind: SourceName, path: Path, toolchain: Finder | None) -> Resolved:
    """Return the user's own file, which holds its weights."""
    if kind == "onnx":
        return _resolved(spec, kind, path.name, path, sha256_with_data(path))
    if kind == "torchscript":
        require_torchscript(path)
        _require_exporter(toolchain, "a TorchScript file")
        return _resolved(spec, kind, path.name, path, sha256_of(path))
    if kind == "paddle":
        files = paddle_files(path)
        tag = f"{files.main.parent.name}/{files.main.name}"
        return _resolved(spec, kind, tag, files.main, files.sha256)
    network = spec.sources.network
    if network is not None:
        try:
            mindcv.of_network(network)
        except UsageError as error:  # before MindSpore starts
            raise SpecError(f"{spec.name}: {error.seen}", expected=error.expected) from error
    files = mindspore_file(path, network)
    return evolve(_resolved(spec, kind, files.main.name, files.main, files.sha256), network=network)


def _timm(spec: ModelSpec, toolchain: Finder | None, reporter: Reporter) -> Resolved:
    tag = _source(spec, "timm")
    _require_exporter(toolchain, "timm weights")
    expected = spec.sources.timm_sha256
    repository = tag if "/" in tag else f"timm/{tag}"
    kept = _huggingface_cache(repository, expected)
    if kept is None:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
            raise DownloadError("HF_HUB_OFFLINE forbids downloads", remedy="unset HF_HUB_OFFLINE")
        host = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        url = f"{host}/{repository}/resolve/main/model.safetensors"
        got = fetch(url, sha256=expected, reporter=reporter)
        kept = got.path, got.sha256
    return _resolved(spec, "timm", tag, *kept)


def _vendor(spec: ModelSpec, reporter: Reporter) -> Resolved:
    url = _source(spec, "vendor")
    got = fetch(url, sha256=spec.sources.vendor_sha256, reporter=reporter)
    published = spec.published.params_m if spec.published else None
    if published is not None:
        found = inspect_onnx(got.path, spec.output, spec.preprocess.crop).parameters / 1e6
        if abs(found - published) > PARAMETER_TOLERANCE * published:
            raise ModelFileError(
                f"{url} has {found:.2f} M parameters",
                expected=f"{published:.2f} M within {PARAMETER_TOLERANCE:.0%}: this is another model's file",
                remedy=f"edge build {spec.name} --weights timm",
            )
    return _resolved(spec, "vendor", url, got.path, got.sha256)


def _demo(spec: ModelSpec) -> Resolved:
    path = zoo_dir() / "demo" / _source(spec, "demo")
    if not path.is_file():
        raise InputError(f"the demo weights {path.name} are missing from this installation", remedy="reinstall edge")
    return _resolved(spec, "demo", path.name, path, sha256_of(path))


def _random(spec: ModelSpec, toolchain: Finder | None, seed: int) -> Resolved:
    tag = _source(spec, "timm", wish="random")
    _require_exporter(toolchain, "random weights")
    return _resolved(spec, "random", tag, None, None, seed)


def _resolved(
    spec: ModelSpec, source: SourceName, tag: str, file: Path | None, sha256: str | None, seed: int | None = None
) -> Resolved:
    # The demo network has the demo images' classes, not the real model's.
    classes = None if source == "demo" else spec.classes
    path = None if file is None else str(file)
    # Only a file built under a zoo model's name must have its parameters.
    named = spec.published if source in OWN_FILES and is_shipped(spec.name) else None
    published = named.params_m if named else None
    return Resolved(source, spec.name + SUFFIX.get(source, ""), tag, path, sha256, seed, classes, published_m=published)


def _source(spec: ModelSpec, name: str, wish: str | None = None) -> str:
    value: str | None = getattr(spec.sources, name)
    if value is None:
        has = [source for source in ("timm", "vendor", "demo") if getattr(spec.sources, source) is not None]
        if "timm" in has:
            has.append("random")
        raise UsageError(
            f"{spec.name} has no {wish or name} weights", expected="--weights " + ", ".join(["auto", *has])
        )
    return value


def _require_exporter(finder: Finder | None, purpose: str) -> None:
    """Fail unless the compiler's Python can export torch and timm models."""
    if finder is None:
        return
    toolchain = finder()
    if toolchain is None:
        why = "the compiler's Python exports them, and no compiler is used"
    elif toolchain.kind == "managed":
        return  # its lock file holds torch and timm
    else:
        why = f"the Python of the compiler at {toolchain.where} has no torch and timm to export them"
        if toolchain.python_argv() is not None:
            asked = toolchain.run_python(["-c", _HAS_EXPORTER], cwd=Path.cwd(), timeout=60)
            if asked.returncode == 0:
                return
    raise ToolchainMissing(f"{purpose}: {why}", remedy="edge toolchain install")


def _huggingface_cache(repository: str, expected: str | None) -> tuple[Path, str] | None:
    """Return a file that Hugging Face's own client downloaded earlier, and its checksum.

    Layout: ``models--OWNER--NAME/refs/main`` names the revision, ``snapshots/<revision>/model.safetensors``
    links to ``blobs/<sha256>``.
    """
    env = os.environ.get
    user_cache = Path(env("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(env("HF_HOME") or user_cache / "huggingface")
    hub = Path(env("HF_HUB_CACHE") or env("HUGGINGFACE_HUB_CACHE") or home / "hub")
    folder = hub / ("models--" + repository.replace("/", "--"))
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        file = (folder / "snapshots" / revision / "model.safetensors").resolve(strict=True)
        if expected is None and re.fullmatch(r"[0-9a-f]{64}", file.name):
            expected = file.name
        found = sha256_of(file)
    except (OSError, RuntimeError, UnicodeDecodeError):
        return None
    return (file, found) if expected is None or found == expected.lower() else None
