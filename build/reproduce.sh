#!/bin/sh
# Builds the release of this commit once more, in another folder, without the network and from nothing
# but the sources, and compares every file with dist/release byte by byte. Takes as long as a first build.
#
#   build/reproduce.sh [RELEASE]
set -eu
cd "$(dirname "$0")/.."
first=$(cd "${1:-dist/release}" && pwd)
sources=$(cd "${WORK:-.build/portable}/sources" && pwd)
other=$(mktemp -d)
trap 'rm -rf "$other"' EXIT
git clone --quiet . "$other/another folder"
mkdir "$other/work"
cp -r "$sources" "$other/work/sources"
alone=
[ "$(id -u)" != 0 ] || alone="unshare --net"
cd "$other/another folder"
# shellcheck disable=SC2086 # nothing, or two words
WORK=$other/work $alone build/release.sh "$other/release"
if diff --recursive --brief "$first" "$other/release"; then
    echo "reproduce: all files are the same"
else
    echo "reproduce: the files differ" >&2
    exit 1
fi
