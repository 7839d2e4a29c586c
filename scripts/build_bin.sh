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

compiler_wanted() { # whether this build will install the vendor's compiler
    local cache=${EDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edge}
    [ "$(uname -sm)" = "Linux x86_64" ] || return 1
    case " $* " in *" --compiler "[!am]* | *" --compiler="[!am]*) return 1 ;; esac # path, docker, onnxruntime
    ! command -v hb_mapper >/dev/null && ! compgen -G "$cache/toolchain/*/complete.json" >/dev/null
}

if compiler_wanted "$@"; then
    echo "the first time: installs the packages (0.5 GB) and the vendor's compiler (4.2 GB); about 6 minutes on" \
        "2 cores, and later builds start at once" >&2
fi
"$root/scripts/setup.sh" build
exec "${EDGE_VENV:-$root/.venv}/bin/edge" build --install "$@"
