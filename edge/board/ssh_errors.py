"""Why ssh could not connect: its own words as one clear error with the remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edge.errors import BoardError, EdgeError, UsageError

if TYPE_CHECKING:
    from edge.board.connection import Target


def explain_failure(target: Target, words: str) -> EdgeError:
    """Return the error to raise.

    Args:
        target: which ssh was asked to reach.
        words: what ssh wrote to standard error; empty where it was stopped at the time limit.
    """
    host, login = target.host, target.command
    address = host.rpartition("@")[2]
    entry = f"[{address}]:{target.port}" if target.port not in (None, 22) else address
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in words or (
        "host key for" in words and "has changed" in words
    ):
        return BoardError(
            f"{address} shows another host key than before: it was set up anew, or is another machine",
            remedy=f"make sure that it is your board, then ssh-keygen -R {_quoted(entry)} and {login} once",
        )
    if "Host key verification failed" in words or "host key is known" in words:
        scan = "ssh-keyscan " + (f"-p {target.port} " if target.port else "") + address
        return BoardError(
            f"the host key of {address} is not known yet",
            remedy=f"{login}   once, and compare the fingerprint; "
            f"or, on a network you trust, {scan} >> ~/.ssh/known_hosts",
        )
    if "Permission denied" in words or "Too many authentication failures" in words:
        port = f"-p {target.port} " if target.port else ""
        return BoardError(
            f"{host} accepts none of the keys offered",
            allowed="a key in your agent, in ~/.ssh, or given with --identity; passwords are not used",
            remedy=f"ssh-copy-id {port}{host}",
        )
    if "Could not resolve hostname" in words or "Name or service not known" in words:
        return BoardError(
            f"no host is called {address}", allowed="a name, an address or an alias of ~/.ssh/config"
        )
    if "Connection refused" in words:
        return BoardError(
            f"nothing listens for ssh at {entry}",
            remedy="see whether the board's ssh server runs, and on which port (--port)",
        )
    if re.search(r"timed out|No route to host|unreachable", words) or not words.strip():
        return BoardError(
            f"{entry} does not answer", remedy="look at the board's power, cable and address, then try ping"
        )
    if re.search(r"Bad configuration option|command-line.*line 0|[Uu]nsupported option|keyword", words):
        return UsageError(
            f"ssh does not take an option: {_one_line(words)}", allowed="KEY=VALUE as in man ssh_config"
        )
    return BoardError(f"ssh can't reach {host}: {_one_line(words)}", remedy=f"{login}   shows more with -v")


def _one_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return " ".join(lines)[-300:]


def _quoted(entry: str) -> str:
    return f"'{entry}'" if "[" in entry else entry
