#!/usr/bin/env bash
# Make .venv with the pinned packages of requirements/<set>.lock; at once when nothing has changed.
# Usage: scripts/setup.sh [build|dev]        EDGE_PYTHON chooses the interpreter, EDGE_VENV the folder.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
set_name=${1:-build}
lock="$root/requirements/$set_name.lock"
venv=${EDGE_VENV:-$root/.venv}

fail() {
    printf 'error: %s\nnext: %s\n' "$1" "$2" >&2
    exit 1
}

usable() { # 3.10 to 3.13; a version manager's shim may exist and still not run
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

free_mb() { # of the disk that holds a folder, which need not be there yet
    local folder=$1
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1024) }'
}

need_room() { # FOLDER MEGABYTES REMEDY
    local free
    free=$(free_mb "$1")
    [ "$free" -ge "$2" ] || fail "$1 has $free MB free, $2 MB are needed" "free some space, or $3"
}

find_python() {
    local candidate
    if [ -n "${EDGE_PYTHON:-}" ]; then
        usable "$EDGE_PYTHON" || fail "EDGE_PYTHON=$EDGE_PYTHON is no Python 3.10 to 3.13" "set it to one, or unset it"
        printf '%s\n' "$EDGE_PYTHON"
        return
    fi
    for candidate in python3 python3.12 python3.11 python3.13 python3.10 python; do
        if command -v "$candidate" >/dev/null && usable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.10 to 3.13 on PATH" "install one (Debian, Ubuntu: apt-get install python3 python3-venv), or set EDGE_PYTHON"
}

[ -f "$lock" ] || fail "no lock file requirements/$set_name.lock" "scripts/setup.sh build, or dev"
stamp=$(cat "$lock" "$root/pyproject.toml" | sha256sum | cut -c1-16)
marker="$venv/.edge-$set_name-$stamp"
if [ -e "$marker" ] && usable "$venv/bin/python"; then
    exit 0
fi

python=$(find_python)
echo "setting up ${venv#"$PWD"/} with $("$python" --version) (pinned packages, once)" >&2
# A leftover of another Python, or of a killed set-up, is made anew.
if [ ! -x "$venv/bin/pip" ] || ! usable "$venv/bin/python"; then
    rm -rf "$venv"
    case $set_name in dev) room=1300 ;; *) room=650 ;; esac
    need_room "$(dirname "$venv")" "$room" "set EDGE_VENV to a folder on a larger disk"
    "$python" -m venv "$venv" || {
        rm -rf "$venv"
        fail "'$python -m venv' failed" "Debian, Ubuntu: apt-get install python3-venv"
    }
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }
pip install --require-hashes -r "$lock" || {
    need_room "$venv" 200 "set EDGE_VENV to a folder on a larger disk"
    need_room "${TMPDIR:-/tmp}" 200 "set TMPDIR to a folder on a larger disk"
    fail "the packages could not be installed" "check the network and pip's index settings (pip config list)"
}
pip install --no-deps --no-build-isolation -e "$root" || fail "edge itself could not be installed" "see above"
rm -f "$venv"/.edge-"$set_name"-*
touch "$marker"
