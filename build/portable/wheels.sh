#!/bin/sh
# Installs pinned, hashed packages into WORK/NAME/site, from WORK/sources/wheels where they are there
# already; for the release's interpreter, whatever this machine's is.
#
#   build/portable/wheels.sh WORK NAME REQUIREMENTS
set -eu
work=$(cd "$1" && pwd)
name=$2
requirements=$3
PYTHON=${PYTHON:-/usr/bin/python3}
wheels=$work/sources/wheels
stamp=$(sha256sum <"$requirements")
[ ! -f "$work/$name/.stamp" ] || [ "$(cat "$work/$name/.stamp")" != "$stamp" ] || exit 0

mkdir -p "$wheels" "$work/$name"
rm -rf "$work/$name/site"
# pip refuses to look at this machine's own platform once others are named.
set -- --require-hashes --no-deps --only-binary :all: --python-version 3.13 --implementation cp --abi cp313 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_12_x86_64 \
    --platform manylinux2010_x86_64 --platform manylinux1_x86_64 --platform any --requirement "$requirements"
pip() { "$PYTHON" -m pip --disable-pip-version-check "$@"; }
if ! pip download --quiet --no-index --find-links "$wheels" --dest "$work/$name" "$@" >/dev/null 2>&1; then
    pip download --dest "$wheels" "$@"
fi
rm -f "$work/$name"/*.whl
pip install --quiet --no-index --find-links "$wheels" --no-compile --target "$work/$name/site" "$@"
printf '%s' "$stamp" >"$work/$name/.stamp"
