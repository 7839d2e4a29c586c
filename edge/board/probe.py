"""A board's facts and state, read by one remote script."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import evolve, field, frozen

from edge.board.connection import Connection, Here
from edge.board.parse import Versions, parse_versions
from edge.errors import BoardError

# Every path starts with a prefix that is empty on a board. Facts are marked lines, so other output of a login is
# ignored.
_PRELUDE = r"""
root=${EDGE_BOARD_ROOT:-}
PATH=$PATH:/usr/hobot/bin:/usr/sbin
say() { printf '@edge %s %s\n' "$1" "$2"; }
word() { [ -r "$1" ] && head -n 1 "$1" 2>/dev/null | tr -d '\r\000'; }
"""
_STATE = r"""
for zone in "$root"/sys/class/thermal/thermal_zone*; do
    [ -r "$zone/temp" ] && say temperature "$(word "$zone/type")=$(word "$zone/temp")"
done
for sensor in "$root"/sys/class/hwmon/hwmon*/temp*_input; do
    [ -r "$sensor" ] || continue
    label=$(word "${sensor%_input}_label")
    say sensor "${label:-$(basename "${sensor%_input}")}=$(word "$sensor")"
done
cpu="$root/sys/devices/system/cpu/cpufreq"
say governor "$(word "$cpu/policy0/scaling_governor")"
say cpu_khz "$(word "$cpu/policy0/scaling_cur_freq")"
say cpu_max_khz "$(word "$cpu/policy0/scaling_max_freq")"
say boost "$(word "$cpu/boost")"
for freq in "$root"/sys/class/devfreq/*.bpu/cur_freq; do
    [ -r "$freq" ] && say bpu_hz "$(word "$freq")"
done
say bpu_ratio "$(word "$root/sys/devices/system/bpu/bpu0/ratio")"
"""
_IDENTITY = r"""
say arch "$(uname -m)"
say os "$(word "$root/etc/version")"
soc=$(word "$root/sys/class/boardinfo/soc_name")
soc=${soc:-$(word "$root/sys/class/socinfo/soc_name")}
say soc "${soc:-$(word "$root/proc/device-tree/model")}"
say user "$(id -un)"
for device in "$root"/dev/bpu* "$root"/dev/ion; do
    [ ! -e "$device" ] || { [ -r "$device" ] && [ -w "$device" ]; } || say denied "$device"
done
say disk_kb "$(df -Pk "${HOME:-/}" 2>/dev/null | awk 'NR==2 {print $4}')"
say tool "$(command -v hrt_model_exec)"
if command -v hrt_model_exec >/dev/null; then
    timeout 20 hrt_model_exec -v 2>&1 | head -n 20 | tr '\r' '\n' | sed 's/^/@edge v /'
    for model in "$root"/opt/hobot/model/x5/basic/*.bin; do
        [ -r "$model" ] || continue
        timeout 30 hrt_model_exec model_info --model_file="$model" 2>&1 |
            grep -a -E 'HBRT|Platform' | head -n 5 | tr '\r' '\n' | sed 's/^/@edge banner /'
        break
    done
fi
python=$root/usr/bin/python3
[ -x "$python" ] || python=python3
timeout 60 "$python" -c '
import platform
print("@edge python", platform.python_version())
for name in ("hbm_runtime", "hobot_dnn.pyeasy_dnn", "hobot_dnn_rdkx5.pyeasy_dnn", "bpu_infer_lib"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        pass
    except BaseException as error:
        text = str(error).splitlines() or [""]
        print("@edge broken", name, type(error).__name__ + ":", text[0][:120])
    else:
        print("@edge module", name)
' 2>/dev/null
"""


@frozen
class State:
    """Temperatures and clocks of a board; empty or None if unknown."""

    temperatures: Mapping[str, float] = field(factory=dict)  #: sensor -> degrees Celsius.
    governor: str | None = None  #: of the CPU.
    boost: bool | None = None  #: whether the CPU may exceed its nominal clock.
    cpu_mhz: float | None = None  #: clock of the first core.
    cpu_max_mhz: float | None = None  #: the governor's upper limit.
    bpu_mhz: float | None = None  #: clock of the BPU.
    bpu_load: int | None = None  #: percent.

    @property
    def hottest(self) -> float | None:
        """The highest temperature, in degrees Celsius."""
        return max(self.temperatures.values(), default=None)


@frozen
class Facts:
    """Facts of a board; None if unknown."""

    arch: str  #: ``aarch64`` on every RDK.
    os: str | None  #: version of RDK OS.
    soc: str | None  #: such as ``x5``, ``X5U``, or the name of the board.
    user: str | None  #: whose account runs the programs.
    denied: tuple[str, ...]  #: devices of the BPU that this user may not open.
    disk_free: int | None  #: free bytes in the user's home.
    tool: str | None  #: path of ``hrt_model_exec``.
    versions: Versions  #: of the runtime.
    python: str | None  #: version of the system's Python.
    modules: tuple[str, ...]  #: vendor modules that it can import.
    broken: tuple[str, ...]  #: vendor modules that are installed but fail, with the reason.
    state: State  #: temperatures and clocks.


def probe(connection: Connection | Here) -> Facts:
    """Read the facts of a board, over SSH or of this machine.

    Raises:
        BoardError: the connection was lost, or the answer has no known content.
    """
    said = _said(connection.run(_PRELUDE + _IDENTITY + _STATE, limit=150, may_fail=True).text)
    if "arch" not in said:
        raise BoardError(
            f"{connection.name} did not run the script that reads its facts",
            expected="a Linux with a POSIX shell",
            remedy="log in and check: uname -m",
        )
    disk = _number(said, "disk_kb")
    loaded, asked = (parse_versions("\n".join(said.get(key, []))) for key in ("banner", "v"))
    return Facts(
        arch=said["arch"][0],
        os=_word(said, "os"),
        soc=_word(said, "soc"),
        user=_word(said, "user"),
        denied=tuple(said.get("denied", [])),
        disk_free=None if disk is None else int(disk) * 1024,
        tool=_word(said, "tool"),
        versions=evolve(loaded, dnn=loaded.dnn or asked.dnn, hbrt=loaded.hbrt or asked.hbrt),
        python=_word(said, "python"),
        modules=tuple(said.get("module", [])),
        broken=tuple(said.get("broken", [])),
        state=_state(said),
    )


def read_state(connection: Connection) -> State:
    """Read the temperatures and clocks of a board."""
    return _state(_said(connection.run(_PRELUDE + _STATE, limit=20, may_fail=True).text))


def _said(text: str) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.search(r"@edge (\w+) (.*)", line.rstrip("\r"))
        if match and match[2].strip():
            said.setdefault(match[1], []).append(match[2].strip())
    return said


def _state(said: Mapping[str, list[str]]) -> State:
    boost = _number(said, "boost")
    load = _number(said, "bpu_ratio")
    return State(
        temperatures=_temperatures([*said.get("temperature", []), *said.get("sensor", [])]),
        governor=_word(said, "governor"),
        boost=None if boost is None else bool(boost),
        cpu_mhz=_scaled(said, "cpu_khz", 1e3),
        cpu_max_mhz=_scaled(said, "cpu_max_khz", 1e3),
        bpu_mhz=_scaled(said, "bpu_hz", 1e6),
        bpu_load=None if load is None else int(load),
    )


def _temperatures(entries: list[str]) -> dict[str, float]:
    found = {}
    for entry in entries:
        name, _, value = entry.rpartition("=")
        if re.fullmatch(r"-?\d+", value):
            # The kernel gives thousandths of a degree; a few drivers give degrees.
            degrees = int(value) / 1000 if abs(int(value)) >= 1000 else float(value)
            found[name or "sensor"] = round(degrees, 1)
    return found


def _word(said: Mapping[str, list[str]], key: str) -> str | None:
    return said[key][0] if key in said else None


def _number(said: Mapping[str, list[str]], key: str) -> float | None:
    word = _word(said, key)
    return float(word) if word is not None and re.fullmatch(r"-?\d+(\.\d+)?", word) else None


def _scaled(said: Mapping[str, list[str]], key: str, divisor: float) -> float | None:
    number = _number(said, key)
    return None if number is None else number / divisor
