"""Find a compiler: installed by edge, on PATH, or the vendor's Docker image."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from attrs import frozen

from edge.errors import InstallError, ToolchainMissing, UsageError
from edge.toolchain import managed
from edge.toolchain.found import Toolchain
from edge.toolchain.install import require_platform
from edge.toolchain.managed import COMPILER, FRAMEWORKS, Environment
from edge.toolchain.process import last_line, quick
from edge.toolchain.python310 import find_python310

Which = Literal["auto", "managed", "path", "docker"]
ORDER = ("managed", "path", "docker")
IMAGE = "openexplorer/ai_toolchain_ubuntu_20_x5_cpu:v1.2.8"
IMAGE_VARIABLE = "EDGE_DOCKER_IMAGE"
_ENGINE_TIMEOUT = 5.0  # seconds; an engine that answers does so at once
_START_TIMEOUT = 120.0  # seconds; hb_mapper takes 5 to start, a Docker image may take longer
_PULL_TIMEOUT = 15.0  # seconds to ask the registry whether the image exists

# Prints the versions of the vendor's packages without importing them (that takes 5 seconds).
_ASK_VERSIONS = """
import importlib.util, json, re, sys
found = {}
for name, file in json.loads(sys.argv[1]).items():
    package, _, rest = file.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            text = open(folder + "/" + rest, encoding="utf-8", errors="replace").read()
        except OSError:
            continue
        match = re.search(r"^__version__\\s*=\\s*r?[\\"']([^\\"']+)", text, re.M)
        if match:
            found[name] = match.group(1)
print("edge-versions " + json.dumps(found))
"""


@frozen
class Route:
    """One way to get the compiler."""

    kind: str  #: ``managed``, ``path`` or ``docker``.
    available: bool  #: it can be used now.
    where: str  #: bin folder or image, where there is one.
    versions: dict[str, str]  #: of hb_mapper, hbdk, horizon_nn.
    why_not: str = ""  #: why it was passed over; empty when available.


@frozen
class ToolchainStatus:
    """What ``edge toolchain status`` shows."""

    routes: tuple[Route, ...]  #: in the order in which ``auto`` takes them.
    python310: str  #: the interpreter an install would use, or why there is none.
    frameworks: tuple[Route, ...] = ()  #: environments of frameworks; only exports from these need them.


def find(which: Which = "auto") -> Toolchain:
    """Return the compiler to use.

    Args:
        which: one route, or ``auto`` for the first that is available: managed, path, docker.

    Raises:
        ToolchainMissing: none was found; says why each route was passed over.
        UsageError: ``which`` is none of these.
    """
    if which != "auto" and which not in ORDER:
        raise UsageError(f"there is no compiler {which!r}", expected=", ".join(("auto", *ORDER)))
    reasons = []
    for kind in ORDER if which == "auto" else (which,):
        got = _ROUTES[kind]()
        if isinstance(got, Toolchain):
            return got
        reasons.append(f"  {kind}: {got}")
    raise ToolchainMissing("no compiler was found:\n" + "\n".join(reasons), remedy=_remedy(which))


def status() -> ToolchainStatus:
    """Look at every route without stopping at the first."""
    routes = tuple(_route(kind, _ROUTES[kind]()) for kind in ORDER)
    try:
        python = find_python310(download=False)
        said = f"{python.version} at {python.path} ({python.source})"
    except InstallError as error:
        said = error.seen
    return ToolchainStatus(routes, said, tuple(_route(name, _managed(env)) for name, env in FRAMEWORKS.items()))


def _route(kind: str, got: Toolchain | str) -> Route:
    if isinstance(got, str):
        return Route(kind, False, "", {}, got)
    return Route(kind, True, got.where, got.versions)


def _remedy(which: str) -> str:
    if which == "docker":
        return f"docker pull {os.environ.get(IMAGE_VARIABLE, IMAGE)}, or: edge toolchain install"
    try:
        require_platform()
    except ToolchainMissing as error:
        return str(error.remedy)
    return "edge toolchain install, or go on without the vendor's compiler: --compiler onnxruntime"


def _managed(environment: Environment = COMPILER) -> Toolchain | str:
    where = managed.place(environment)
    return managed.why_unusable(where) or managed.toolchain(where)


def _path() -> Toolchain | str:
    program = shutil.which("hb_mapper")
    if program is None:
        return "no hb_mapper on PATH"
    script = Path(program).absolute()
    if script.parent == managed.place().bin:
        return "the hb_mapper on PATH is the managed one"
    python = _shebang(script)
    tool = Toolchain("path", str(script.parent), python=python)
    versions: dict[str, str] = {}
    if python:
        versions = _ask([python], tool.environ())
    if not versions:
        done = quick([program, "--version"], env=tool.environ(), timeout=_START_TIMEOUT)
        if done is None or done.returncode != 0:
            said = last_line(done.stderr or done.stdout) if done else ""
            return f"{program} does not run" + (f": {said[:200]}" if said else "")
        if match := re.search(r"version\s+(\d[\w.]*)", done.stdout):
            versions = {"hb_mapper": match[1]}
        python = None  # the packages are not where that interpreter looks: run the program as it is
    return Toolchain("path", str(script.parent), versions, _identity(versions), python)


def _docker() -> Toolchain | str:
    engine = shutil.which("docker") or shutil.which("podman")
    if engine is None:
        return "no docker or podman on PATH"
    done = quick([engine, "info"], timeout=_ENGINE_TIMEOUT)
    if done is None:
        return f"{engine} does not answer within {_ENGINE_TIMEOUT:g} s"
    if done.returncode != 0:
        return f"its engine does not run: {last_line(done.stderr or done.stdout)[:200] or 'no message'}"
    image = os.environ.get(IMAGE_VARIABLE) or IMAGE
    inspect = quick([engine, "image", "inspect", "--format", "{{.Id}}", image], timeout=_ENGINE_TIMEOUT)
    if inspect is None or inspect.returncode != 0:
        remote = quick([engine, "manifest", "inspect", image], timeout=_PULL_TIMEOUT)
        if remote is None or remote.returncode != 0:
            return f"the image {image} is neither on this machine nor in its registry"
        return Toolchain("docker", image, {}, f"image {image}", engine=engine)
    tool = Toolchain("docker", image, engine=engine)
    versions = _ask(tool.python_argv() or [], None)
    identity = f"{_identity(versions)} image {inspect.stdout.strip()}"
    return Toolchain("docker", image, versions, identity, engine=engine)


_ROUTES: dict[str, Callable[[], Toolchain | str]] = {"managed": _managed, "path": _path, "docker": _docker}


def _identity(versions: dict[str, str]) -> str:
    return " ".join(f"{name} {versions[name]}" for name in sorted(versions)) or "unknown versions"


def _shebang(script: Path) -> str | None:
    """Return the interpreter that a console script names, where it is one that exists."""
    try:
        with script.open("rb") as file:
            first = file.readline(512).decode("utf-8", "replace").strip()
            second = file.readline(512).decode("utf-8", "replace").strip()
    except OSError:
        return None
    if first == "#!/bin/sh" and second.startswith("'''exec'"):
        # How installers write an interpreter whose path is long or has blanks.
        match = re.match(r"'''exec' \"?([^\"]+?)\"? \"\$0\"", second)
        path = match[1] if match else ""
    else:
        path = first.removeprefix("#!").strip() if first.startswith("#!") else ""
        if path.startswith("/usr/bin/env "):
            path = shutil.which(path.split()[-1]) or ""
    return path if "python" in Path(path).name and Path(path).exists() else None


def _ask(python: list[str], env: dict[str, str] | None) -> dict[str, str]:
    argv = [*python, "-c", _ASK_VERSIONS, json.dumps(dict(COMPILER.version_files))]
    done = quick(argv, env=env, timeout=_START_TIMEOUT)
    line = re.search(r"^edge-versions (\{.*\})$", done.stdout, re.MULTILINE) if done else None
    return {str(name): str(value) for name, value in json.loads(line[1]).items()} if line else {}
