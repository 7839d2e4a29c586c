#!/bin/sh
# Install edge into lib/ of this folder, without a network, and test the program on this board. Usage: sh install.sh
# Nothing outside this folder is changed, so numpy, OpenCV and all else of the board stay as they are.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=/usr/bin/python3 # the vendor's runtimes belong to the system's Python
wanted='@PYTHON@ aarch64'

fail() {
    printf 'error: %s\nnext: %s\n' "$1" "$2" >&2
    exit 1
}

found=$("$python" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())') ||
    fail "$python does not run" "run this on the board"
[ "$found" = "$wanted" ] || fail "$python is $found; the wheels are for $wanted" "run this on an RDK X5 with RDK OS 3"
"$python" -c 'import numpy, cv2' ||
    fail "the board's Python lacks numpy or OpenCV, which its image brings" "pip3 install 'numpy<2' opencv-python"
"$python" -m pip --version >/dev/null 2>&1 || fail "the board's Python has no pip" "apt-get install python3-pip"
work=$(mktemp -d "$here/.install.XXXXXX") || fail "$here can't be written" "copy the folder to a place of your own"
trap 'rm -rf "$work"' EXIT
"$python" -m zipfile -e "$here/wheels.zip" "$work"
# The user's own settings of pip stay out: an index, --user or --target would change what this does.
PIP_CONFIG_FILE=/dev/null "$python" -m pip --isolated --no-cache-dir --disable-pip-version-check install --quiet \
    --no-index --no-deps --require-hashes --find-links "$work" --target "$work/lib" -r "$work/requirements.txt" ||
    fail "the wheels can't be installed" "copy the bundle again"
rm -rf "${here:?}/lib"
mv "$work/lib" "$here/lib"
cat >"$here/edge" <<'END'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$here/lib${PYTHONPATH:+:$PYTHONPATH}" exec /usr/bin/python3 -m edge "$@"
END
chmod +x "$here/edge"
sh "$here/edge" selftest "$here"
