"""Find a CPython 3.10 for x86-64: the only interpreter that the vendor's wheels are built for."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from edge.errors import InstallError
from edge.toolchain.process import last_line, quick

WANTED = (3, 10)
VARIABLE = "EDGE_PYTHON310"
_TIMEOUT = 20.0  # seconds for one interpreter to say what it is
_PROBE = (
    "import json, platform, struct, sys; print(json.dumps([platform.python_implementation(), "
    "list(sys.version_info[:3]), platform.machine(), struct.calcsize('P') * 8]))"
)


@frozen
class Python310:
    """An interpreter that fits."""

    path: Path  #: of the program.
    version: str  #: such as ``3.10.13``.
    source: str  #: where it was found: ``given``, ``EDGE_PYTHON310``, ``PATH``, ``pyenv``, ``conda`` or ``uv``.


def find_python310(
    given: Path | None = None, *, download: bool = True, say: Callable[[str], None] = lambda _: None
) -> Python310:
    """Return the first interpreter that really runs and is CPython 3.10 on x86-64.

    Args:
        given: the user's choice; nothing else is tried then, nor when EDGE_PYTHON310 is set.
        download: let uv fetch one when none is on this machine.

    Raises:
        InstallError: none fits; lists every place and what was wrong with it.
    """
    tried: list[str] = []
    named = os.environ.get(VARIABLE, "")
    chosen = given or (Path(named).expanduser() if named else None)
    if chosen is not None:
        source = "given" if given else VARIABLE
        found = _probe(chosen, source)
        if isinstance(found, Python310):
            return found
        raise InstallError(
            f"{chosen} ({source}): {found}",
            expected="CPython 3.10 for x86-64",
            remedy=f"name another one, or unset {VARIABLE} to let edge search",
        )
    for source, path in _candidates():
        found = _probe(path, source)
        if isinstance(found, Python310):
            return found
        tried.append(f"{source}: {path}: {found}")
    if download:
        fetched = _download(say, tried)
        if fetched is not None:
            return fetched
    looked = "".join(f"\n  {line}" for line in tried) or "\n  nothing that looked like one"
    raise InstallError(
        f"no CPython 3.10 for x86-64; looked in {VARIABLE}, PATH, pyenv, conda and uv:{looked}",
        remedy=f"uv python install 3.10 (or pyenv install 3.10, conda create -n py310 python=3.10), "
        f"or set {VARIABLE}=/path/to/python3.10",
    )


def uv_program() -> str | None:
    """Return uv: the one installed beside edge, else the one on PATH, else None."""
    try:
        import uv

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        return shutil.which("uv")


def _candidates() -> Iterator[tuple[str, Path]]:
    """Yield (source, program), best first, each program once."""
    seen: set[Path] = set()
    for source, path in _places():
        if path.is_file() and path not in seen:
            seen.add(path)
            yield source, path


def _places() -> Iterator[tuple[str, Path]]:
    if sys.version_info[:2] == WANTED:
        yield "PATH", Path(sys.executable)
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if folder:
            for name in ("python3.10", "python3", "python"):
                yield "PATH", Path(folder) / name
    home = Path.home()
    for root in [*_folders("PYENV_ROOT"), home / ".pyenv"]:
        # Newest patch first; 3.10.9 sorts below 3.10.13.
        versions = sorted((root / "versions").glob("3.10*"), key=_patch, reverse=True)
        for version in versions:
            yield "pyenv", version / "bin" / "python3.10"
    usual = ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba", ".conda")
    for root in [*_folders("CONDA_PREFIX", "CONDA_ROOT", "MAMBA_ROOT_PREFIX"), *(home / name for name in usual)]:
        for path in (root / "bin" / "python3.10", *sorted(root.glob("envs/*/bin/python3.10"))):
            yield "conda", path
    uv = uv_program()
    if uv:
        line = _said([uv, "python", "find", "--no-project", "--offline", "3.10"])
        if line:
            yield "uv", Path(line)


def _folders(*variables: str) -> list[Path]:
    return [Path(value) for name in variables if (value := os.environ.get(name))]


def _patch(version: Path) -> int:
    tail = version.name.rpartition(".")[2]
    return int(tail) if tail.isdigit() else -1


def _probe(path: Path, source: str) -> Python310 | str:
    """Run the interpreter; return it, or what is wrong. A version manager's shim may exist and still fail."""
    try:
        done = subprocess.run(
            [str(path), "-I", "-c", _PROBE],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        kind, version, machine, bits = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return "does not answer"
    except OSError as error:
        return f"does not start ({error.strerror})"
    except ValueError:
        said = last_line(done.stderr or done.stdout)[:100]
        return f"does not run ({said or f'exit status {done.returncode}'})"
    text = ".".join(map(str, version))
    if kind != "CPython" or tuple(version[:2]) != WANTED:
        return f"is {kind} {text}"
    if machine not in ("x86_64", "AMD64") or bits != 64:
        return f"is built for {machine}, {bits} bits"
    return Python310(path, text, source)


def _download(say: Callable[[str], None], tried: list[str]) -> Python310 | None:
    uv = uv_program()
    if uv is None or platform.system() != "Linux":
        return None
    say("uv fetches Python 3.10")
    env = {"UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": "30", **os.environ}
    done = quick([uv, "python", "install", "--no-bin", "3.10"], env=env, timeout=600)
    error = "uv did not end in time" if done is None else last_line(done.stderr) if done.returncode else ""
    line = _said([uv, "python", "find", "--no-project", "--managed-python", "--offline", "3.10"])
    found = _probe(Path(line), "uv") if line else f"could not fetch one ({error or 'no message'})"
    if isinstance(found, Python310):
        return found
    tried.append(f"uv: {found}")
    return None


def _said(argv: list[str]) -> str:
    """Return the last line that a command says; empty when it fails."""
    done = quick(argv, timeout=_TIMEOUT)
    return last_line(done.stdout) if done is not None and done.returncode == 0 else ""
