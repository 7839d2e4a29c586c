#!/usr/bin/env bash
# The whole suite on a fresh machine: environment, compiler, linters, types, tests.
# Usage: scripts/test.sh [options of pytest]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh dev
bin="${EDGE_VENV:-$PWD/.venv}/bin"

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/shellcheck" scripts/*.sh .ci/run
"$bin/python" -m pytest "$@"
