"""Fetch a file over HTTP: complete, checked and cached, or a clear error within seconds.

``requests`` does the transport: it handles proxies of the environment, redirects, and separate time limits for
connecting and reading. ``reach`` first checks whether the host answers at all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import queue
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from attrs import frozen

from edge.errors import DownloadError, WorkspaceError
from edge.files import read_json, sha256_of
from edge.progress import SILENT, Reporter

if TYPE_CHECKING:
    import requests

PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
CHECK_NETWORK = "check the network and the HTTPS_PROXY variable, then run the command again"
BLOCK = 1 << 18
CONNECT, READ = 3.0, 30.0  # seconds until a server must answer, and that it may then stay silent
WAIT_FOR_ANOTHER = 600.0  # seconds


def reach(url: str, within: float) -> str:
    """Fail unless an address of the URL's host, or of the proxy in between, accepts a connection in time.

    Args:
        within: seconds for name lookup and all addresses together.

    Returns:
        The URL's host name.

    Raises:
        DownloadError: not a web address, an unknown name, refused by every address, or no answer in time.
    """
    from requests.utils import get_environ_proxies, select_proxy

    proxy = None
    try:
        proxy = select_proxy(url, get_environ_proxies(url))
        target = url if proxy is None else proxy if "://" in proxy else f"http://{proxy}"
        parts, asked = urlsplit(target), urlsplit(url).hostname
        host, port = parts.hostname, parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        host = asked = None
    if host is None or asked is None:
        # The proxy's address may hold a password: it is not shown.
        what = "the value of the environment's proxy variable" if proxy else url
        raise DownloadError(f"{what} is not a web address", expected="http:// or https://, a host, a path")
    shown = f"the proxy {host}:{port}" if proxy else host
    answers: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()

    def connect(address: tuple[str, int]) -> None:
        try:
            socket.create_connection(address, timeout=within).close()
            answers.put(("connected", None))
        except OSError as error:
            answers.put(("refused", error))

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            answers.put(("unknown", error))
            return
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        answers.put(("found", len(addresses)))
        for address in addresses:
            threading.Thread(target=connect, args=((address, port),), daemon=True).start()

    threading.Thread(target=look_up, daemon=True).start()
    started, pending, doing = time.monotonic(), 1, "its name was not resolved"
    while pending:
        left = started + within - time.monotonic()
        try:
            kind, value = answers.get(timeout=max(0.01, left))
        except queue.Empty:
            text = f"{doing} within {within:g} s"
            break
        if kind == "connected":
            return asked
        if kind == "found":
            pending, doing = int(str(value)), "no answer"
            continue
        pending -= 1
        what = "its name is unknown" if kind == "unknown" else reason(value)
        text = f"{what} (after {time.monotonic() - started:.1f} s)"
    raise DownloadError(f"no network: {shown}: {text}", remedy=CHECK_NETWORK)


def reason(error: object) -> str:
    """Return the innermost cause of an error in one short line."""
    inner = error
    while isinstance(inner, Exception):
        inside = getattr(inner, "reason", None) or next(
            (arg for arg in reversed(inner.args) if isinstance(arg, Exception)), None
        )
        if not isinstance(inside, Exception):
            break
        inner = inside
    text = getattr(inner, "strerror", None) or str(inner)
    return " ".join(str(text).split())[:160] or type(inner).__name__


@frozen
class Downloaded:
    """A complete file on disk."""

    path: Path  #: where it is.
    sha256: str  #: of its bytes, as hex.
    bytes: int  #: its size.


def cache_dir() -> Path:
    """Return the folder of finished downloads: ``$EDGE_CACHE/downloads``, else in the user's cache folder."""
    import platformdirs

    root = os.environ.get("EDGE_CACHE") or platformdirs.user_cache_dir("edge")
    return Path(root) / "downloads"


def cache_entry(url: str, sha256: str | None = None) -> Path:
    """Return where ``fetch`` keeps a file; one folder for each pair of URL and expected checksum."""
    key = hashlib.sha256(f"{url}\n{sha256 or ''}".encode()).hexdigest()[:20]
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    return cache_dir() / key / (re.sub(r"[^A-Za-z0-9._-]", "_", name) or "file")


def fetch(url: str, *, sha256: str | None = None, reporter: Reporter = SILENT) -> Downloaded:
    """Return a file from the download cache; download it first if it is missing or damaged.

    The checksum of the first download is kept beside the file and checked at every later use. Arguments and errors
    are the same as for ``download``.
    """
    from filelock import FileLock, Timeout

    dest = cache_entry(url, sha256)
    record = dest.with_name(dest.name + ".json")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(dest.parent / ".lock")
        with lock.acquire(timeout=WAIT_FOR_ANOTHER):
            kept = _kept(dest, record, sha256)
            if kept is not None:
                return kept
            for stale in dest.parent.glob("*.part"):  # from a killed run: under the lock, nobody writes it now
                stale.unlink()
            got = download(url, dest, sha256=sha256, reporter=reporter)
            record.write_text(
                json.dumps({"url": url, "sha256": got.sha256, "bytes": got.bytes}) + "\n", encoding="utf-8"
            )
            return got
    except Timeout:
        raise DownloadError(
            f"another process has been downloading {url} for {WAIT_FOR_ANOTHER:.0f} s",
            remedy="wait for it or stop it, then run the command again",
        ) from None
    except OSError as error:
        raise _disk(error, dest.parent) from error


def download(
    url: str,
    dest: Path,
    *,
    sha256: str | None = None,
    reporter: Reporter = SILENT,
    connect_timeout: float = CONNECT,
    read_timeout: float = READ,
) -> Downloaded:
    """Download one file; ``dest`` appears only when it is complete, checked and on the disk.

    Args:
        dest: the file to write; an older one is replaced at the end.
        sha256: expected checksum, hex. Without it the server's headers are checked: Hugging Face's
            ``X-Linked-Etag`` (the sha256 of the file) and ``Content-Length``.
        connect_timeout: seconds until an address of the host, or of the proxy, must answer.
        read_timeout: seconds that the server may stay silent.

    Raises:
        DownloadError: no network, time-out, HTTP error, wrong checksum, truncated, or a web page.
        WorkspaceError: the disk is full or the folder can't be written.
    """
    try:
        import requests
    except ImportError:
        raise DownloadError("downloading needs the package requests", remedy="pip install 'edge[build]'") from None

    host = reach(url, connect_timeout)
    part = dest.with_name(f"{dest.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        # A compressed transfer would hide the true length, and models hardly compress.
        with requests.get(
            url,
            stream=True,
            timeout=(connect_timeout, read_timeout),
            headers={"Accept-Encoding": "identity", "User-Agent": "edge"},
        ) as response:
            got = _receive(response, dest, part, sha256, reporter)
    except requests.exceptions.SSLError as error:
        raise DownloadError(
            f"{host}: the secure connection failed: {reason(error)}",
            remedy="behind a proxy that opens TLS, set REQUESTS_CA_BUNDLE to its certificate file",
        ) from error
    except requests.exceptions.Timeout as error:
        limit = connect_timeout if isinstance(error, requests.exceptions.ConnectTimeout) else read_timeout
        raise DownloadError(f"{host} was silent for {limit:g} s", remedy=CHECK_NETWORK) from error
    except requests.exceptions.RequestException as error:
        # A read time-out in the middle of the body arrives as a ConnectionError.
        if "timed out" in str(error):
            raise DownloadError(f"{host} was silent for {read_timeout:g} s", remedy=CHECK_NETWORK) from error
        raise DownloadError(f"{url}: {reason(error)}", remedy=CHECK_NETWORK) from error
    except OSError as error:
        raise _disk(error, dest.parent) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return got


def _receive(response: requests.Response, dest: Path, part: Path, sha256: str | None, reporter: Reporter) -> Downloaded:
    url = response.request.url or ""
    if response.status_code != 200:
        raise DownloadError(
            f"{url} answered {response.status_code} {response.reason}",
            expected="200 OK",
            remedy="check the address; the file may have moved"
            if response.status_code in (404, 410)
            else CHECK_NETWORK,
        )
    stated_length = response.headers.get("Content-Length", "")
    length = int(stated_length) if stated_length.isdigit() else None
    if "Content-Encoding" in response.headers:
        length = None
    free = shutil.disk_usage(dest.parent).free
    if length is not None and length > free:
        raise WorkspaceError(
            f"{dest.name} needs {length / 1e6:.1f} MB and {dest.parent} has {free / 1e6:.1f} MB free",
            remedy="free some space, or set EDGE_CACHE to a folder on a larger disk",
        )
    digest, size = hashlib.sha256(), 0
    with part.open("wb") as stream:
        for block in response.iter_content(BLOCK):
            if size == 0 and dest.suffix not in {".html", ".htm"}:
                _refuse_web_page(url, response.headers.get("Content-Type", ""), block)
            stream.write(block)
            digest.update(block)
            size += len(block)
            total = f" of {length / 1e6:.1f}" if length else ""
            reporter.update(f"download {dest.name}: {size / 1e6:.1f}{total} MB", size / length if length else None)
        stream.flush()
        os.fsync(stream.fileno())
    if size == 0 or (length is not None and size != length):
        raise DownloadError(
            f"{url} sent {size} bytes", expected=f"{length or 'some'} bytes", remedy="run the command again"
        )
    stated = sha256 or _stated_sha256(response)
    if stated is not None and digest.hexdigest() != stated.lower():
        raise DownloadError(
            f"{url} has the sha256 {digest.hexdigest()}",
            expected=stated.lower(),
            remedy="run the command again; if the checksum stays wrong, the server's file was replaced: don't use it",
        )
    part.replace(dest)
    return Downloaded(dest, digest.hexdigest(), size)


def _stated_sha256(response: requests.Response) -> str | None:
    """Return the checksum that Hugging Face states, on the redirect to its file store or on the file."""
    for answer in (*response.history, response):
        match = re.fullmatch(r'"?([0-9a-f]{64})"?', answer.headers.get("X-Linked-Etag", ""))
        if match:
            return match[1]
    return None


def _refuse_web_page(url: str, content_type: str, start: bytes) -> None:
    head = start[:512].lstrip().lower()
    if content_type.lower().startswith("text/html") or head.startswith((b"<!doctype html", b"<html")):
        raise DownloadError(
            f"{url} sent a web page",
            expected="the file itself",
            remedy="open the address in a browser: the network may need a login, or the file may have moved",
        )


def _kept(dest: Path, record: Path, sha256: str | None) -> Downloaded | None:
    """Return the file of an earlier download if its bytes are unchanged."""
    try:
        known = read_json(record)["sha256"]
        found = sha256_of(dest)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if found != known or (sha256 is not None and found != sha256.lower()):
        return None
    return Downloaded(dest, found, dest.stat().st_size)


def _disk(error: OSError, folder: Path) -> WorkspaceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WorkspaceError(
            f"the disk of {folder} is full", remedy="free some space, or set EDGE_CACHE to a folder on a larger disk"
        )
    return WorkspaceError(
        f"{folder} can't be written: {error.strerror or error}", remedy="set EDGE_CACHE to a writable folder"
    )
