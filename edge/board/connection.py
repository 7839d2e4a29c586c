"""One SSH connection to a board, on which commands run under a time limit.

The OpenSSH client does the work, as a separate program: it uses the user's ``~/.ssh/config``, keys, agent, jump
hosts and hardware tokens as they are. A library would be a second implementation of host key checks. No password
is ever asked for or passed on, and host keys are always verified.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from edge.errors import BoardError, EdgeError, UsageError
from edge.toolchain.process import CommandOutput, communicate, end, last_line, quick

CONNECT_SECONDS = 10
ALIVE_SECONDS = 5  # a peer that is silent for three times as long is gone
PERSIST_SECONDS = 60  # how long the connection stays open if we are killed before closing it
_SLACK = 20.0  # seconds after a command's own limit until the connection itself counts as lost
_LOST = 255  # exit status of ssh when ssh itself failed
_TIMED_OUT = (124, 137)  # exit status of timeout(1); 137 if the command had to be killed
# Unlike a terminal, a pipe does not tell a remote command that its user is gone. So a watcher reads our end of the
# connection. When it closes, the watcher ends the command with all its children: timeout(1) leads their group.
# Status 255 is reserved for ssh itself.
_GUARD = """
exec 3<&0
limit=$1; script=$2; shift 2
timeout -k 5 "$limit" sh -c "$script" edge "$@" </dev/null 3<&- &
job=$!
{ read -r _ <&3; kill -TERM "$job"; } >/dev/null 2>&1 &
watch=$!
wait "$job"; status=$?
kill "$watch" 2>/dev/null
[ "$status" -eq 255 ] && status=254
exit "$status"
"""
# The same for a command that reads data: when the data ends, our side has ended.
_FED = """
limit=$1; script=$2; shift 2
timeout -k 5 "$limit" sh -c "$script" edge "$@"; status=$?
[ "$status" -eq 255 ] && status=254
exit "$status"
"""


@frozen
class Target:
    """Where the board is."""

    host: str  #: name, address or alias of ``~/.ssh/config``, with ``user@`` if needed.
    port: int | None = None  #: None leaves it to ssh.
    identity: Path | None = None  #: file of a private key; None leaves it to ssh.
    options: tuple[str, ...] = ()  #: further ``KEY=VALUE`` options of ssh.

    @staticmethod
    def parse(text: str, port: int | None = None, identity: Path | None = None, options: Sequence[str] = ()) -> Target:
        """Read ``[user@]host[:port]``; an IPv6 address with a port stands in brackets.

        Raises:
            UsageError: no host, a port outside 1..65535, two ports, or no such key file.
        """
        expected = "user@host, host:port, [IPv6 address]:port, or an alias of ~/.ssh/config"
        bracketed = re.fullmatch(r"((?:[^@]+@)?)\[([^\]]+)\](?::(\d+))?", text)
        plain = re.fullmatch(r"([^:]+):(\d+)", text)
        host, given = text, None
        if bracketed:
            host, given = bracketed[1] + bracketed[2], bracketed[3]
        elif plain:
            host, given = plain[1], plain[2]
        if (
            not host
            or host.rpartition("@")[2].startswith("-")
            or host.startswith(("-", "@"))
            or host.endswith("@")
            or re.search(r"[\s'\"`$;&|<>\\]", host)
        ):
            raise UsageError(f"HOST {text!r}", expected=expected)
        if given is not None and port is not None and int(given) != port:
            raise UsageError(f"both {text} and --port {port} are given", expected="one of them")
        port = int(given) if given is not None else port
        if port is not None and not 1 <= port <= 65535:
            raise UsageError(f"port {port}", expected="1..65535")
        if identity is not None and not identity.expanduser().is_file():
            raise UsageError(f"there is no key {identity}", expected="the file of a private key")
        for option in options:
            if not re.fullmatch(r"[A-Za-z0-9]+[= ].+", option):
                raise UsageError(f"--ssh-option {option!r}", expected="KEY=VALUE of ssh_config, such as ProxyJump=gate")
        return Target(host, port, identity.expanduser() if identity else None, tuple(options))

    @property
    def command(self) -> str:
        """The command that logs in there."""
        port = ["-p", str(self.port)] if self.port else []
        return shlex.join(["ssh", *port, self.host])


class Here:
    """This machine in the place of a connection: edge itself runs on the board."""

    name = "this machine"

    def run(self, script: str, *, limit: float, may_fail: bool = False) -> CommandOutput:
        """Run a POSIX shell script; see :meth:`Connection.run`."""
        output = communicate(["sh", "-c", script], env=dict(os.environ), timeout=limit)
        if output.status and not may_fail:
            raise BoardError(f"a command failed with exit status {output.status}: {last_line(output.err)}")
        return output


class Connection:
    """A connection, open during a ``with`` block.

    Raises:
        BoardError: there is no ssh, or the board can't be reached, has another host key, or refuses the login.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.name = target.host
        self._folder: Path | None = None

    def __enter__(self) -> Connection:
        if shutil.which("ssh") is None:
            raise BoardError(
                "there is no ssh on PATH", remedy="install the OpenSSH client: apt-get install openssh-client"
            )
        # The path of a socket is limited to about 100 characters; the TMPDIR of macOS is too long.
        base = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - mkdtemp makes it ours alone
        self._folder = Path(tempfile.mkdtemp(prefix="edge-ssh-", dir=base))
        try:
            self._open()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        quick([*self._ssh(), "-O", "exit", self.target.host], env=_environment(), timeout=10)
        self._discard()

    def run(
        self,
        script: str,
        *arguments: str,
        limit: float,
        data: Callable[[], Iterator[bytes]] | None = None,
        on_line: Callable[[str], None] | None = None,
        on_sent: Callable[[int], None] | None = None,
        may_fail: bool = False,
    ) -> CommandOutput:
        """Run a POSIX shell script on the board.

        Args:
            script: reads ``arguments`` as ``$1`` and so on; they are quoted here.
            limit: seconds, after which the script and all its children are ended.
            data: yields the script's standard input.
            on_line: called with each line of its standard output as it comes.
            on_sent: called with the number of bytes of ``data`` sent so far.
            may_fail: return an exit status other than 0 instead of raising.

        Raises:
            BoardError: the connection was lost, the time ran out, or the script failed.
        """
        guard = _GUARD if data is None else _FED
        words = ["sh", "-c", guard, "edge", str(max(1, round(limit))), script, *arguments]
        # The master holds the connection; if it is gone, no second connection is opened without the user's knowledge.
        argv = [*self._ssh(), "-o", "ProxyCommand=false", self.target.host, "exec " + shlex.join(words)]
        output = communicate(
            argv, env=_environment(), timeout=limit + _SLACK, data=data, on_line=on_line, on_sent=on_sent
        )
        if output.timed_out:
            raise BoardError(
                f"{self.target.host} stopped answering",
                remedy="check the board's power and network, then run the command again",
            )
        if output.status == _LOST:
            reason = last_line(output.err) or "ssh gave no reason"
            raise BoardError(
                f"the connection to {self.target.host} was lost: {reason}",
                remedy="check the board's power and network, then run the command again",
            )
        if output.status in _TIMED_OUT:
            raise BoardError(
                f"a command on {self.target.host} was stopped after its time limit of {limit:g} s",
                remedy="check whether another program uses the BPU, or give more time with --timeout",
            )
        if output.status and not may_fail:
            said = last_line(output.err) or last_line(output.text) or "no message"
            raise BoardError(f"a command on {self.target.host} failed with exit status {output.status}: {said}")
        return output

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """Make a folder on the board and always remove it at the end."""
        folder = last_line(self.run('mktemp -d "${TMPDIR:-/tmp}/edge.XXXXXX"', limit=20).text)
        if not re.fullmatch(r"/\S*/edge\.\w+", folder):
            raise BoardError(f"the board could not make a temporary folder: {folder!r}")
        try:
            yield folder
        finally:
            with contextlib.suppress(BoardError):
                self.run('rm -rf -- "$1"', folder, limit=60, may_fail=True)

    def _ssh(self) -> list[str]:
        assert self._folder is not None  # noqa: S101 - __enter__ made it
        # ssh uses the first value of an option: ours where security needs it, the user's, then our defaults.
        options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"ControlPath={self._folder / 's'}",
            "LogLevel=INFO",
            "ClearAllForwardings=yes",
            *self.target.options,
            f"ConnectTimeout={CONNECT_SECONDS}",
            f"ServerAliveInterval={ALIVE_SECONDS}",
            "ServerAliveCountMax=3",
        ]
        argv = ["ssh", "-T"]
        for option in options:
            argv += ["-o", option]
        if self.target.port is not None:
            argv += ["-p", str(self.target.port)]
        if self.target.identity is not None:
            argv += ["-i", str(self.target.identity)]
        return argv

    def _open(self) -> None:
        master = ["-f", "-N", "-o", "ControlMaster=yes", "-o", f"ControlPersist={PERSIST_SECONDS}"]
        assert self._folder is not None  # noqa: S101 - __enter__ made it
        log = self._folder / "log"
        with log.open("wb") as sink:  # no pipe: the master keeps its end open
            process = subprocess.Popen(
                [*self._ssh(), *master, self.target.host],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=sink,
                env=_environment(),
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(timeout=6 * CONNECT_SECONDS)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                if process.poll() is None:
                    end(process)
        if status != 0:
            raise explain_failure(self.target, log.read_text(encoding="utf-8", errors="replace"))

    def _discard(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _environment() -> dict[str, str]:
    # The messages that we recognize are English only with this.
    return {**os.environ, "LC_ALL": "C"}


def explain_failure(target: Target, words: str) -> EdgeError:
    """Return the error to raise; ``words`` is ssh's standard error, empty if it was stopped at the time limit."""
    host, login = target.host, target.command
    address = host.rpartition("@")[2]
    entry = f"[{address}]:{target.port}" if target.port not in (None, 22) else address
    quoted = f"'{entry}'" if "[" in entry else entry
    port = f"-p {target.port} " if target.port else ""
    said = " ".join(line.strip() for line in words.splitlines() if line.strip())[-300:]
    if re.search("REMOTE HOST IDENTIFICATION HAS CHANGED|host key for.*has changed", words, re.DOTALL):
        return BoardError(
            f"{address} has another host key than before: it was set up again, or is another machine",
            remedy=f"make sure that it is your board, then ssh-keygen -R {quoted} and {login} once",
        )
    if "Host key verification failed" in words or "host key is known" in words:
        return BoardError(
            f"the host key of {address} is not known yet",
            remedy=f"{login}   once, and compare the fingerprint; "
            f"or, on a network you trust, ssh-keyscan {port}{address} >> ~/.ssh/known_hosts",
        )
    if "Permission denied" in words or "Too many authentication failures" in words:
        return BoardError(
            f"{host} accepts none of the keys offered",
            expected="a key in your agent, in ~/.ssh, or given with --identity; passwords are not used",
            remedy=f"ssh-copy-id {port}{host}",
        )
    if "Could not resolve hostname" in words or "Name or service not known" in words:
        return BoardError(f"there is no host {address}", expected="a name, an address or an alias of ~/.ssh/config")
    if "Connection refused" in words:
        return BoardError(
            f"nothing listens for ssh at {entry}",
            remedy="check whether the board's ssh server runs, and on which port (--port)",
        )
    if re.search(r"timed out|No route to host|unreachable", words) or not words.strip():
        return BoardError(
            f"{entry} does not answer", remedy="check the board's power, cable and address, then try ping"
        )
    if re.search(r"Bad configuration option|command-line.*line 0|[Uu]nsupported option|keyword", words):
        return UsageError(f"ssh refuses an option: {said}", expected="KEY=VALUE as in man ssh_config")
    return BoardError(f"ssh can't reach {host}: {said}", remedy=f"{login}   shows more with -v")
