#!/usr/bin/env bash
# The whole suite on a fresh machine: environment, compiler, linters, types, tests.
# Usage: scripts/test.sh [options of pytest]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh dev
bin="${EDGE_VENV:-$PWD/.venv}/bin"

# The tests of "edge board" talk to a real ssh server; without one they are skipped and say so. Where systemd runs,
# the package would start a server of its own, so there it is left to the user.
if ! PATH="$PATH:/usr/sbin" command -v sshd >/dev/null && [ "$(id -u)" = 0 ] &&
    command -v apt-get >/dev/null && [ ! -d /run/systemd/system ]; then
    {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server
    } >/dev/null 2>&1 || true
fi

# The tests of the report's page look at it in Chromium; without one they are skipped and say so.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
    } >/dev/null 2>&1 || true
fi

# The tests of edge/cpp/ compile it, for this machine and for the board; without compilers they are skipped and say so.
if ! { [ -e /usr/include/opencv4 ] && command -v cmake && command -v aarch64-linux-gnu-g++; } >/dev/null &&
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
                cmake g++ g++-aarch64-linux-gnu libopencv-dev
    } >/dev/null 2>&1 || true
fi

# The tests on the vendor's real board modules emulate aarch64; without these they are skipped and say so.
if ! { command -v qemu-aarch64-static && command -v aarch64-linux-gnu-gcc; } >/dev/null && [ "$(id -u)" = 0 ] &&
    command -v apt-get >/dev/null; then
    {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
                qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    } >/dev/null 2>&1 || true
fi

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/shellcheck" scripts/*.sh edge/pipeline/install.sh .ci/run
# More workers than four would want more memory than they save time: each may run a compiler.
"$bin/python" -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
