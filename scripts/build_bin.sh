#!/usr/bin/env bash
# From a model name to a checked .bin on a fresh machine: environment, compiler, build.
# Usage: scripts/build_bin.sh MODEL [options of edge build]
#        scripts/build_bin.sh ConvNeXt_atto
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ $# -eq 0 ]; then
    sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
"$root/scripts/setup.sh" build
exec "${EDGE_VENV:-$root/.venv}/bin/edge" build --install "$@"
