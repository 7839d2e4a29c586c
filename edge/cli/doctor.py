"""``edge doctor``: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
import sys
from pathlib import Path

import cattrs
import click
from attrs import frozen

from edge.cli.display import examples
from edge.cli.options import build_dir_option, output_options
from edge.cli.toolchain import versions_line
from edge.cli.verb import Verb
from edge.errors import EdgeError, GateError
from edge.toolchain.memory import available

BUILD_PACKAGES = ("cv2", "jinja2", "numpy", "onnx", "onnxruntime", "onnxsim")
FREE_GB = 2.0  # a build of the zoo's largest small model leaves about 0.5 GB behind
MEMORY_GB = 4.0  # the compiler takes 2 to 3 GB for the small ConvNeXts


@frozen
class Requirement:
    """One thing looked at: whether it is as needed, what was seen, and what to do."""

    name: str
    ok: bool
    seen: str
    remedy: str = ""


@click.command("doctor", cls=Verb, epilog=examples(["edge doctor", "edge doctor --json"]))
@build_dir_option
@output_options
def doctor_command(*, build_dir: Path, as_json: bool, verbose: bool) -> None:
    """Check Python, packages, the compiler, memory and disk; exit with 1 if a build can't work here."""
    found = (_python(), _packages(), _compiler(), _memory(), _disk(build_dir))
    if as_json:
        click.echo(json.dumps([cattrs.unstructure(requirement) for requirement in found], indent=2))
    else:
        for requirement in found:
            click.echo(f"{'✓' if requirement.ok else '✗'} {requirement.name:<10} {requirement.seen}")
            if not requirement.ok or (verbose and requirement.remedy):
                click.echo(f"  {'':<10} next: {requirement.remedy}")
    bad = [requirement.name for requirement in found if not requirement.ok]
    if bad:
        raise GateError(f"not ready to build: {', '.join(bad)}")
    if not as_json:
        click.echo("ready: edge build ConvNeXt_atto")


def _python() -> Requirement:
    ok = (3, 10) <= sys.version_info[:2] <= (3, 13)
    seen = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Requirement("python", ok, seen, "use Python 3.10 to 3.13")


def _packages() -> Requirement:
    versions, broken = [], []
    for name in BUILD_PACKAGES:
        try:
            module = importlib.import_module(name)
            versions.append(f"{name} {getattr(module, '__version__', '')}".strip())
        except ImportError as error:  # a missing package, or one whose system library is missing
            broken.append(f"{name}: {error}")
    if broken:
        libgl = any("libGL" in line for line in broken)
        remedy = "apt-get install libgl1 libglib2.0-0" if libgl else "pip install 'edge[build]'"
        return Requirement("packages", ok=False, seen="; ".join(broken), remedy=remedy)
    return Requirement("packages", ok=True, seen=", ".join(versions))


def _compiler() -> Requirement:
    from edge.toolchain.find import find

    try:
        toolchain = find()
    except EdgeError as error:
        remedy = "edge toolchain install, or build with --compiler onnxruntime (no .bin)"
        return Requirement("compiler", ok=False, seen=error.seen, remedy=remedy)
    return Requirement("compiler", ok=True, seen=f"{toolchain.kind}: {versions_line(toolchain.versions)}")


def _memory() -> Requirement:
    found = available()
    if found is None:
        return Requirement("memory", ok=True, seen="not known on this system")
    gigabytes = found / 1e9
    return Requirement("memory", gigabytes >= MEMORY_GB, f"{gigabytes:.1f} GB available", "close other programs")


def _disk(folder: Path) -> Requirement:
    while not folder.exists():
        folder = folder.absolute().parent
    gigabytes = shutil.disk_usage(folder).free / 1e9
    return Requirement(
        "disk", gigabytes >= FREE_GB, f"{gigabytes:.1f} GB free for builds", "free some space, or use --build-dir"
    )
