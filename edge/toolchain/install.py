"""Install the compiler or a framework in a separate environment, pinned by hash, shared by all checkouts.

The environment is made at its final path, since its scripts name that path; a marker written last says that it
is complete. A folder without the marker is left from an interrupted install and is removed under the lock.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from edge.errors import InstallError, ToolchainError, ToolchainMissing
from edge.progress import SILENT, Reporter
from edge.toolchain import managed
from edge.toolchain.found import Toolchain
from edge.toolchain.managed import COMPILER, MARKER, Environment, Place
from edge.toolchain.process import Completed, quick, run
from edge.toolchain.python310 import find_python310, uv_program

_PROGRESS = re.compile(r"Downloading|Downloaded|Collecting|Installing|Prepared|Installed|Building|Resolved|Using")
# Seconds: a missing network must show within seconds, a slow one must not end the install.
_NETWORK = {"UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_TIMEOUT": "60", "UV_HTTP_RETRIES": "2"}


def install(
    environment: Environment | None = None,
    *,
    reporter: Reporter = SILENT,
    python: Path | None = None,
    timeout: float = 3600.0,
) -> Toolchain:
    """Install a managed environment, or return at once when it is there and complete.

    Args:
        environment: which one; the compiler's by default.
        python: a CPython 3.10 to use; None searches.
        timeout: seconds for everything, including the wait for another install.

    Raises:
        ToolchainMissing: it is not available for this platform.
        InstallError: no Python 3.10, no network, no disk space, a wrong hash, or it does not start.
    """
    environment = environment or COMPILER
    where = managed.place(environment)
    if not managed.why_unusable(where):
        return managed.toolchain(where)
    require_platform(environment)
    deadline = time.monotonic() + timeout
    try:
        where.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{where.folder}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reporter.update(f"waiting for another install of {environment.title}")
            lock.acquire(timeout=timeout)
    except Timeout:
        raise InstallError(
            f"another install still holds {where.folder}.lock after {timeout:g} s",
            remedy=f"end it, then: {environment.install}",
        ) from None
    except OSError as error:
        raise InstallError(
            f"can't write to {where.folder.parent}: {error.strerror}",
            remedy=f"set {managed.CACHE_VARIABLE} to a folder that you can write to",
        ) from error
    try:
        if managed.why_unusable(where):  # otherwise the install we waited for did it
            _install(where, python, deadline, reporter)
    finally:
        lock.release()
    return managed.toolchain(where)


def require_platform(environment: Environment | None = None) -> None:
    """Raise ToolchainMissing where an environment, by default the compiler's, has no wheels."""
    environment = environment or COMPILER
    system, machine = platform.system(), platform.machine()
    if system == "Linux" and machine in ("x86_64", "AMD64") and platform.libc_ver()[0] != "musl":
        return
    what = environment.title
    raise ToolchainMissing(
        f"{what} does not run on {system} {machine}"
        if environment is COMPILER
        else f"edge has no pinned {what} for {system} {machine}",
        expected="Linux x86-64 with glibc",
        remedy=environment.elsewhere,
    )


def _install(where: Place, python: Path | None, deadline: float, reporter: Reporter) -> None:
    folder, environment = where.folder, where.environment
    if folder.exists():
        reporter.update("removing an interrupted install")
        _remove(folder)
    free = shutil.disk_usage(folder.parent).free
    if free < environment.needed_bytes:
        raise InstallError(
            f"{folder.parent} has {free / 1e9:.1f} GB free",
            expected=f"at least {environment.needed_bytes / 1e9:.0f} GB for {environment.title} and its download",
            remedy=f"free some space, or set {managed.CACHE_VARIABLE} to a folder on a larger disk",
        )
    interpreter = find_python310(python, say=reporter.update)
    reporter.update(f"Python {interpreter.version} from {interpreter.source}")
    try:
        _fill(where, interpreter.path, deadline, reporter)
        seconds = _verify(where, deadline, reporter)
        marker = {
            "python": interpreter.version,
            "versions": managed.read_versions(where),
            "verify_seconds": round(seconds, 1),
        }
        partial = folder / f".{MARKER}"
        partial.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / MARKER)
    except BaseException:
        _remove(folder)
        raise


def _fill(where: Place, python: Path, deadline: float, reporter: Reporter) -> None:
    """Make the environment and install every pinned package; each must have its pinned hash."""
    lock = str(managed.lock_file(where.environment))
    uv = uv_program()
    if uv:
        env = {**_NETWORK, **os.environ, **_pip_settings(os.environ)}
        make = [uv, "venv", "--no-project", "--python", str(python), str(where.folder)]
        fill = [uv, "pip", "install", "--python", str(where.python), "--require-hashes"]
    else:
        env = {"PIP_RETRIES": "1", **os.environ}
        make = [str(python), "-m", "venv", str(where.folder)]
        fill = [str(where.python), "-m", "pip", "install", "--require-hashes", "--progress-bar", "off"]
    # Variables that point at the caller's environment must not reach the new one.
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX", "PIP_TARGET", "PIP_USER", "PIP_PREFIX"):
        env.pop(name, None)
    for step, argv in (("making the environment", make), ("installing", [*fill, "-r", lock])):
        reporter.update(step)
        # In the cache folder, where no project settings lie; the user's (uv.toml, pip.conf) apply.
        done = _step(argv, env, where, deadline, reporter)
        if done.returncode != 0 or done.timed_out:
            raise _failure(step, done, where.environment)


def _step(argv: list[str], env: Mapping[str, str], where: Place, deadline: float, reporter: Reporter) -> Completed:
    def on_line(line: str) -> None:
        if _PROGRESS.search(line):
            reporter.update(line.strip())

    left = max(1.0, deadline - time.monotonic())
    try:
        return run(argv, cwd=where.folder.parent, env=env, timeout=left, on_line=on_line)
    except OSError as error:
        raise InstallError(
            f"can't start {argv[0]}: {error.strerror}", remedy=f"pip install uv, then: {where.environment.install}"
        ) from error


def _verify(where: Place, deadline: float, reporter: Reporter) -> float:
    """Start every part once: a complete install may still not run on this machine."""
    environment = where.environment
    reporter.update(f"verifying {environment.title}")
    tool = managed.toolchain(where)
    started = time.monotonic()
    for args in environment.verify:
        left = max(1.0, deadline - time.monotonic())
        try:
            done = tool.run(args, cwd=where.folder, timeout=left)
        except ToolchainError as error:
            raise InstallError(f"{environment.title} was installed but does not start: {error.seen}") from error
        if done.returncode != 0:
            raise _failure(f"verifying ({' '.join(args[:2])})", done, environment)
    return time.monotonic() - started


def _failure(step: str, done: Completed, environment: Environment) -> InstallError:
    last = [line for line in done.tail.splitlines() if line.strip()][-6:]
    said = "\n  ".join(line.strip()[:300] for line in last)
    text = done.tail.lower()
    if done.timed_out:
        return InstallError(f"{step}: stopped at the time limit", remedy=f"{environment.install} (downloads are kept)")
    if "no space left" in text or "errno 28" in text:
        return InstallError(
            f"{step}: the disk is full", remedy=f"free some space, or set {managed.CACHE_VARIABLE} to a larger disk"
        )
    if re.search(r"hash(es)? (mismatch|do not match)|do not match the hashes|mismatched hash", text):
        return InstallError(
            f"{step}: a package does not have the pinned hash:\n  {said}",
            remedy="check the package index in use, it served a different file; "
            f"then: uv cache clean && {environment.install}",
        )
    if re.search(
        r"failed to (fetch|download)|dns error|connection (refused|reset|error)|timed out|unreachable|"
        r"name resolution|max retries|newconnectionerror|client error|no solution found|"
        r"no matching distribution",
        text,
    ):
        return InstallError(
            f"{step}: the package index can't be reached or lacks a package:\n  {said}",
            remedy="check the network and the index (UV_INDEX_URL or pip's index-url), then: "
            f"{environment.install}; {environment.offline or environment.elsewhere}",
        )
    return InstallError(
        f"{step} failed with exit status {done.returncode}:\n  {said}", remedy=f"{environment.install} --verbose"
    )


def _pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return pip's own index settings as uv's variables; uv does not read pip's files.

    A setting already made for uv wins. Every package has a pinned hash, so any index may be asked for it, as pip does.
    """
    found = _pip_config()
    settings = {}
    for option, names in (
        ("index-url", ("UV_INDEX_URL", "UV_DEFAULT_INDEX")),
        ("extra-index-url", ("UV_EXTRA_INDEX_URL", "UV_INDEX")),
        ("find-links", ("UV_FIND_LINKS",)),
        ("cert", ("SSL_CERT_FILE",)),
    ):
        if option in found and not any(name in env for name in names):
            separator = "," if names[0] == "UV_FIND_LINKS" else " "
            settings[names[0]] = separator.join(found[option].split())
    if "UV_INDEX_STRATEGY" not in env:
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return settings


def _pip_config() -> dict[str, str]:
    """Return pip's settings, files and PIP_* variables together; empty if there is no pip."""
    found: dict[str, str] = {}
    for argv in ([sys.executable, "-m", "pip"], ["pip"], ["pip3"]):
        done = quick([*argv, "config", "list"], timeout=20)
        if done is not None and done.returncode == 0:
            # Lines such as  global.index-url='https://...'  ; ":env:." comes first but wins in pip.
            rows = [line.partition("=") for line in done.stdout.splitlines()]
            for name, _, value in sorted(rows, key=lambda row: row[0].startswith(":env:")):
                scope, _, option = name.rpartition(".")
                if scope in ("global", "install", ":env:"):
                    found[option] = value.strip().strip("'\"").replace("\\n", " ")
            break
    return found


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InstallError(
            f"can't remove the unfinished install {folder}: {error.strerror}", remedy=f"rm -rf {folder}"
        ) from error
