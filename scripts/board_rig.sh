#!/usr/bin/env bash
# The vendor's own board modules without a board: an emulated aarch64 root, our stand-in libdnn, and the tests of both.
# Usage: scripts/board_rig.sh             makes the root (once: a few minutes, 0.6 GB) and runs tests/rig in it
#        scripts/board_rig.sh COMMAND...  runs COMMAND there: no network, this checkout at /edge, RIG_SHARE at /share
# HBM_RUNTIME=FILE adds hbm_runtime; FILE is HB_HBMRuntime.so of the X5's package hobot-spdev. RIG_USER=N is the user.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
qemu=$(command -v qemu-aarch64-static || true)
python=${EDGE_VENV:-$checkout/.venv}/bin/python
debs=(bash coreutils dash debianutils findutils gawk grep gzip hostname libc-bin libgcc-s1 libstdc++6 libssl3 login
    procps python3 python3-pip sed tar)
# numpy and OpenCV as on the board's image; what edge and its tests import.
wheels=(numpy==1.26.4 opencv-python-headless==4.11.0.86 attrs cattrs click filelock platformdirs PyYAML rich pytest)
vendor=(hobot-dnn-rdkx5==3.0.6 bpu-infer-lib-x3==1.0.3)

fail() {
    printf 'error: %s\nnext: %s\n' "$1" "$2" >&2
    exit 1
}

need_tools() {
    local tool
    [ -n "$qemu" ] || fail "no qemu-aarch64-static" "apt-get install qemu-user-static"
    for tool in aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu apt-get:apt dpkg-deb:dpkg unshare:util-linux flock:util-linux; do
        command -v "${tool%:*}" >/dev/null || fail "no ${tool%:*}" "apt-get install ${tool#*:}"
    done
    [ -x "$python" ] || python=python3
    "$python" -m pip --version >/dev/null 2>&1 || fail "no pip for $python" "scripts/setup.sh dev"
}

# aarch64 packages from this machine's own sources, unpacked and not configured: nothing here needs that.
unpack_debs() { # ROOT WORK
    local root=$1 work=$2 apt deb
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$root"/usr/{bin,sbin,lib} "$root"/{dev,proc,sys,tmp,root,edge,share}
    ln -s usr/bin usr/sbin usr/lib "$root"
    : >"$work/status"
    apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Install-Recommends=false
        -o APT::Sandbox::User=root -o Dir::State="$work" -o Dir::State::status="$work/status" -o Dir::Cache="$work")
    { "${apt[@]}" update && "${apt[@]}" -y --download-only install "${debs[@]}"; } ||
        fail "apt-get could not fetch packages of arm64" "name a mirror that has arm64 in the machine's apt sources"
    for deb in "$work"/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-owner -C "$root"
    done
    ln -sf dash "$root/usr/bin/sh"
    ln -sf gawk "$root/usr/bin/awk"
    echo root:x:0:0:root:/root:/bin/bash >"$root/etc/passwd"
    echo sunrise:x:1000:1000::/tmp:/bin/bash >>"$root/etc/passwd"
}

fetch_wheels() { # FOLDER PYTHON-VERSION PACKAGE...
    local folder=$1 version=$2
    shift 2
    "$python" -m pip download -qq --only-binary=:all: --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 \
        --python-version "$version" -d "$folder" "$@" >&2 ||
        fail "pip could not fetch $*" "check the network and pip's index settings (pip config list)"
}

unzip_into() { # FOLDER WHEEL...
    local folder=$1 wheel
    shift
    for wheel in "$@"; do "$python" -m zipfile -e "$wheel" "$folder"; done
}

python_of() { # ROOT
    basename "$(readlink "$1/usr/bin/python3")" | sed 's/python//'
}

# The vendor's modules look for CPython 3.10; the root has another one where Debian has.
accept_python() { # VERSION MODULE
    local version=$1 module=$2
    [ "$version" = 3.10 ] || sed -i "s/\x003\.10\x00/\x00$version\x00/g; s/\x003\.10\x00/\x00$version\x00/g" "$module"
}

# Every library that a module wants and the root lacks, with functions of these names that do nothing.
stand_in_libraries() { # ROOT MODULE...
    local root=$1 module library wanted
    shift
    for module in "$@"; do
        for library in $(aarch64-linux-gnu-objdump -p "$module" | awk '$1 == "NEEDED" { print $2 }'); do
            [ "$library" != libdnn.so ] || continue
            [ ! -e "$root/usr/lib/aarch64-linux-gnu/$library" ] && [ ! -e "$root/usr/hobot/lib/$library" ] || continue
            wanted=
            case $library in libopencv*)
                wanted=$(aarch64-linux-gnu-nm -D --undefined-only "$module" | awk '$2 ~ /^_ZNK?2cv/ { print "void " $2 "(void){}" }')
                ;;
            esac
            aarch64-linux-gnu-gcc -shared -fPIC -x c -o "$root/usr/hobot/lib/$library" - <<<"$wanted"
        done
    done
}

add_modules() { # ROOT WORK
    local root=$1 work=$2 packages=$1/usr/lib/python3/dist-packages version module
    version=$(python_of "$root")
    mkdir -p "$packages" "$root/usr/hobot/lib" "$root/opt/hbm"
    echo /opt/hbm >"$packages/hbm.pth"
    fetch_wheels "$work/wheels" "$version" "${wheels[@]}"
    fetch_wheels "$work/vendor" 3.10 --no-deps "${vendor[@]}"
    unzip_into "$packages" "$work"/wheels/*.whl "$work"/vendor/*.whl
    for module in "$packages"/{bpu_infer_lib,hobot_dnn_rdkx5}/*.so; do
        accept_python "$version" "$module"
        stand_in_libraries "$root" "$module"
        case $module in *.cpython-310-*) mv "$module" "${module%.cpython-310-*}.so" ;; esac
    done
}

make_root() { # ROOT
    local root=$1 work=$1.work
    rm -rf "$root.part" "$work"
    echo "making the emulated root in $root (once)" >&2
    unpack_debs "$root.part" "$work" >&2
    add_modules "$root.part" "$work"
    rm -rf "$work"
    mv "$root.part" "$root"
}

# Beside the root, since other users of it may not have the file; prints the folder.
add_hbm_runtime() { # ROOT
    local folder module
    [ -n "${HBM_RUNTIME:-}" ] || return 0
    [ -r "$HBM_RUNTIME" ] || fail "HBM_RUNTIME=$HBM_RUNTIME can't be read" "name the file HB_HBMRuntime.so"
    folder=$1.hbm-$(sha256sum <"$HBM_RUNTIME" | cut -c1-12)
    module=$folder/hbm_runtime/HB_HBMRuntime.so
    mkdir -p "$folder/hbm_runtime"
    cp "$HBM_RUNTIME" "$module"
    accept_python "$(python_of "$1")" "$module"
    echo 'from .HB_HBMRuntime import HB_HBMRuntime, hbDNNDataType, hbDNNQuantiType, QuantParams' \
        >"$folder/hbm_runtime/__init__.py"
    printf '%s\n' "$folder"
}

build_libdnn() { # ROOT
    local source=$checkout/tests/rig/libdnn.c library=$1/usr/hobot/lib/libdnn.so
    [ "$library" -nt "$source" ] && return
    # The vendor's modules ask for the symbols by this version.
    aarch64-linux-gnu-gcc -O2 -Wall -Wextra -Werror -shared -fPIC -Wl,--version-script=<(echo 'CONFIG { global: *; };') \
        -o "$library" "$source"
}

# Namespaces of its own: no network, and programs of aarch64 run through qemu for this command alone.
enter() { # ROOT COMMAND...
    local root=$1 share=${RIG_SHARE:-}
    shift
    # shellcheck disable=SC2016
    unshare --user --map-root-user --mount --net --pid --fork --kill-child bash -euc '
        root=$1 qemu=$2 checkout=$3 share=$4 user=$5 hbm=$6
        shift 6
        if mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2>/dev/null && [ ! -e /proc/sys/fs/binfmt_misc/edge ]; then
            elf="\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00"
            mask="\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff"
            printf "%s" ":edge:M::$elf:$mask:$qemu:F" >/proc/sys/fs/binfmt_misc/register 2>/dev/null || true
        fi
        mount --bind "$root" "$root"
        mount --rbind /dev "$root/dev"
        mount -t proc none "$root/proc"
        mount -t tmpfs none "$root/tmp"
        mount -t tmpfs none "$root/root"
        mount --bind "$checkout" "$root/edge"
        [ -z "$share" ] || mount --bind "$share" "$root/share"
        [ -z "$hbm" ] || mount --bind "$hbm" "$root/opt/hbm"
        mount -o remount,bind,ro "$root/edge"
        mount -o remount,bind,ro "$root"
        exec unshare --user --map-user="$user" --map-group="$user" --root="$root" --wd=/tmp -- "$@"
    ' rig "$root" "$qemu" "$checkout" "$share" "${RIG_USER:-0}" "$hbm" \
        /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/usr/sbin HOME=/tmp LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
        LD_LIBRARY_PATH=/usr/hobot/lib "$@"
}

need_tools
cache=${EDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edge}/board_rig
key=$(declare -p debs wheels vendor | cat - <(declare -f unpack_debs add_modules) | sha256sum | cut -c1-12)
root=$cache/$key
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
[ -d "$root" ] || make_root "$root"
hbm=$(add_hbm_runtime "$root")
build_libdnn "$root"
exec 9>&-
enter "$root" /usr/bin/true 2>/dev/null ||
    fail "programs of aarch64 do not run here in namespaces of their own" \
        "take Linux 6.7 or later with user namespaces, or register qemu: apt-get install qemu-user-static binfmt-support"
if [ $# -gt 0 ]; then
    enter "$root" "$@"
else
    enter "$root" env PYTHONPATH=/edge python3 -m pytest -q -p no:cacheprovider --noconftest -c /dev/null \
        --rootdir=/edge /edge/tests/rig/bindings.py
fi
