"""Ask whether a host answers at all, within one time limit.

The libraries limit the time for each address of a host and not for the name lookup. Behind a firewall that
drops packets a host with eight addresses then costs eight time limits; here it costs one.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from urllib.parse import urlsplit

from edge.errors import DownloadError

PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
CHECK_NETWORK = "check the network and the HTTPS_PROXY variable, then run the command again"


def reach(url: str, within: float) -> str:
    """Fail unless some address of the URL's host, or of the proxy in between, accepts a connection in time.

    Args:
        url: http or https.
        within: seconds for all of it: name lookup and every address together.

    Returns:
        The URL's host name.

    Raises:
        DownloadError: no web address, an unknown name, refused by every address, or no answer in time.
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
        what = "the proxy variable of the environment holds" if proxy else f"{url} is"
        raise DownloadError(f"{what} no web address", allowed="http:// or https://, a host, a path")
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
