#!/bin/sh
# The release: one file that needs no Python, its packages, its SBOM, its licences, its checksums.
#
#   build/release.sh [OUT]        dist/release if nothing is named
#
# Needs make, autoconf, automake, libtool, patch, binutils, Python with pip. What is downloaded is pinned
# by hash and kept in WORK/sources, so that a second build needs no network. WORK (.build/portable) may be
# anywhere, and so may the tree: the same commit gives the same bytes.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
out=${1:-dist/release}
mkdir -p "$out" "${WORK:=.build/portable}"
out=$(cd "$out" && pwd)
work=$(cd "$WORK" && pwd)
umask 022

say() { printf 'release: %s\n' "$*"; }
die() {
    printf 'release: %s\n' "$*" >&2
    exit 1
}

missing=
for tool in make autoconf automake libtoolize patch objcopy apt-get; do
    command -v $tool >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] || die "not here:$missing; apt-get install make autoconf automake libtool patch binutils"
[ "$(uname -m)" = x86_64 ] || die "builds on x86-64 only"

build/portable/interpreter.sh "$work"
build/portable/wheels.sh "$work" freezing build/requirements-binary.txt

# --- the bootloader -----------------------------------------------------------------------------------

wanted=$(sed -n 's/^pyinstaller==\([0-9.]*\).*/\1/p' build/requirements-binary.txt)
source=$work/sources/wheels/pyinstaller-$wanted.tar.gz
hash=$(sed -n 's/.*--hash=sha256:\([0-9a-f]*\).*/\1/p' build/portable/requirements-bootloader.txt)
grep -q "^pyinstaller==$wanted " build/portable/requirements-bootloader.txt ||
    die "build/portable/requirements-bootloader.txt is not for PyInstaller $wanted"
if ! echo "$hash  $source" | sha256sum --check --status 2>/dev/null; then
    say "fetching the bootloader's source"
    "${PYTHON:-/usr/bin/python3}" -m pip --disable-pip-version-check download --quiet --require-hashes --no-deps \
        --no-binary pyinstaller --dest "$work/sources/wheels" --requirement build/portable/requirements-bootloader.txt
fi
stamp=$(cat "$work/prefix/.stamp" "$source" build/portable/bootloader.* | sha256sum)
if [ ! -f "$work/run" ] || [ "$(cat "$work/run.stamp" 2>/dev/null)" != "$stamp" ]; then
    say "building the bootloader"
    build/portable/bootloader.sh "$work" "$source"
    printf '%s' "$stamp" >"$work/run.stamp"
fi
site=$work/freezing/site
cp "$work/run" "$site/PyInstaller/bootloader/Linux-64bit-intel/run"

# --- the file -----------------------------------------------------------------------------------------

: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}"
export SOURCE_DATE_EPOCH PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 LC_ALL=C.UTF-8 TZ=UTC
export PYINSTALLER_CONFIG_DIR="$work/pyinstaller" STILLFRAME_SITE="$site"
portable=$work/prefix/stillframe/bin/python3.13
frozen=$work/frozen
rm -rf "$frozen"
mkdir -p "$frozen"
say "freezing"
PYTHONPATH=$root/build/portable/shims:$root/build/portable/freezing:$frozen/work/release:$site \
    "$portable" -m PyInstaller build/release.spec --noconfirm --log-level WARN \
    --distpath "$frozen" --workpath "$frozen/work" >"$frozen/log" 2>&1 || {
    tail -n 30 "$frozen/log" >&2
    die "PyInstaller failed"
}
if LC_ALL=C grep -aqF "$root" "$frozen/app"; then
    die "the name of this folder is inside the file: another folder would give another file"
fi

# --- what goes with it --------------------------------------------------------------------------------

rm -f "$out"/*
cp "$frozen/app" "$out/app"
PYTHONPATH=$site:$work/tools/site "$portable" build/inventory.py "$out/app" "$work" "$out"

VERSION=$("$out/app" --version | sed 's/.* //')
STAGE=$frozen/stage
RELEASE=$out
export VERSION STAGE RELEASE
mkdir "$STAGE"
"$out/app" install --root "$STAGE" >"$frozen/log"
# A package remembers by itself what it has installed.
rm -r "$STAGE/usr/local/share/stillframe"
find "$STAGE" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
touch --date "@$SOURCE_DATE_EPOCH" "$out"/*
for kind in deb rpm; do
    "$work/tools/site/bin/nfpm" package --config build/packages.yaml --packager $kind --target "$out/" >"$frozen/log" ||
        die "no .$kind: $(cat "$frozen/log")"
done
(cd "$out" && sha256sum -- * >SHA256SUMS)
say "$out: $(cd "$out" && echo *); app is $(stat -c %s "$out/app" | awk '{printf "%.1f MB", $1 / 1000000}')"
