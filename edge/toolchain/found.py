"""A compiler that was found: what it is, how to run its tools and its Python."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partialmethod
from pathlib import Path
from typing import Literal

from attrs import evolve, field, frozen

from edge.errors import ToolchainError, WorkspaceError
from edge.toolchain import process
from edge.toolchain.process import Completed

Kind = Literal["managed", "path", "docker"]

# Inside an image: run a script with the interpreter that the first line of hb_mapper names.
_SCRIPT = 'p=$(sed -n "1s/^#! *//p" "$(command -v hb_mapper)"); exec ${p:-python3} "$@"'
_IN_IMAGE = ("sh", "-c", _SCRIPT, "python")
# Variables of the caller's shell that would change what the compiler's Python imports or writes.
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_PRELOAD")


@frozen
class Toolchain:
    """The vendor's compiler, ready to run."""

    kind: Kind  #: ``managed`` (installed by edge), ``path`` (the user's own) or ``docker``.
    where: str  #: the bin folder, or the image's name.
    #: versions of ``hb_mapper``, ``hbdk`` and ``horizon_nn``, where known.
    versions: dict[str, str] = field(factory=dict)
    identity: str = ""  #: goes into cache keys; changes whenever the compiler's output may.
    python: str | None = None  #: the compiler's own interpreter; None if unknown.
    engine: str = "docker"  #: the container engine's program, for docker.

    def run(
        self,
        args: Sequence[str],
        *,
        cwd: Path,
        timeout: float,
        on_line: Callable[[str], None] | None = None,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        mounts: Sequence[Path] = (),
        python: bool = False,
    ) -> Completed:
        """Run one of the vendor's tools, such as ``["hb_mapper", "checker", ...]``.

        Args:
            args: tool and its arguments; with ``python``, a script (see :meth:`worker_path`) and its arguments.
            timeout: seconds; then everything it started is stopped and ``Completed.timed_out`` is set.
            on_line: called with each line of output and each step of a progress bar.
            log: file that receives the output without progress bars.
            env: variables to set on top of the clean environment.
            mounts: folders and files that it reads or writes, at the same paths (docker only; the workers'
                folder is always there).
            python: run a script in the compiler's own Python.

        Raises:
            ToolchainError: this compiler's Python is not known, or it can't be started.
        """
        argv = [*args] if python or self.kind == "docker" else [str(Path(self.where) / args[0]), *args[1:]]
        environment: Mapping[str, str] | None = self.environ(env)
        cleanup: Sequence[str] = ()
        if self.kind == "docker":
            container, name = self._docker(cwd, env or {}, mounts)
            argv = [*container, *(_IN_IMAGE if python else ()), *argv]
            environment, cleanup = None, [self.engine, "kill", name]
        elif python:
            if self.python is None:
                raise ToolchainError(
                    f"the Python behind {self.where}/hb_mapper is not known", remedy="edge toolchain install"
                )
            argv = [self.python, *argv]
        try:
            done = process.run(
                argv, cwd=cwd, env=environment, timeout=timeout, on_line=on_line, log=log, cleanup=cleanup
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise WorkspaceError(
                    f"the disk is full while {argv[0]} runs", remedy="free some space and run the same command again"
                ) from error
            raise ToolchainError(
                f"can't start {argv[0]}: {error.strerror or error}", remedy="edge toolchain status"
            ) from error
        # For a container, only its client was measured.
        return evolve(done, peak_memory=None) if self.kind == "docker" else done

    run_python = partialmethod(run, python=True)

    def python_argv(self, *, cwd: Path | None = None, mounts: Sequence[Path] = ()) -> list[str] | None:
        """Return the words before a script that run it in the compiler's Python, for callers that keep pipes open.

        Start it with ``env=toolchain.environ()``. None if the interpreter is not known. The folder to start in and
        the mounts are for docker only.
        """
        if self.kind == "docker":
            return [*self._docker(cwd, {}, mounts)[0], *_IN_IMAGE]
        return [self.python] if self.python else None

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the clean environment: the compiler's bin first on PATH, fixed hash seed, no PYTHONPATH."""
        env = {name: value for name, value in os.environ.items() if name not in _DROPPED}
        if self.kind != "docker":
            env["PATH"] = self.where + os.pathsep + env.get("PATH", os.defpath)
        env |= {"PYTHONHASHSEED": "0", "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
        return env | dict(extra or {})

    def worker_path(self, name: str) -> Path:
        """Return the path of ``edge/toolchain/workers/<name>``."""
        path = _workers() / name
        if not path.is_file():
            raise ToolchainError(f"this installation lacks its worker {name}", remedy="reinstall edge")
        return path

    def _docker(self, cwd: Path | None, env: Mapping[str, str], mounts: Sequence[Path]) -> tuple[list[str], str]:
        name = f"edge-{uuid.uuid4().hex[:12]}"
        argv = [self.engine, "run", "--rm", "-i", "--init", "--network", "none", "--name", name]
        argv += ["--user", f"{os.getuid()}:{os.getgid()}", "-e", "HOME=/tmp"]
        for key, value in {"PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", **env}.items():
            argv += ["-e", f"{key}={value}"]
        for path in dict.fromkeys([_workers(), *([cwd] if cwd else []), *mounts]):
            argv += ["--mount", f"type=bind,source={path},target={path}"]
        if cwd:
            argv += ["--workdir", str(cwd)]
        return [*argv, self.where], name


def _workers() -> Path:
    return Path(__file__).resolve().parent / "workers"
