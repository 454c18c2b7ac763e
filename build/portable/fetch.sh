#!/bin/sh
# Brings what sources.lock names into a folder, checked by hash; what is there already is not fetched.
#
#   build/portable/fetch.sh FOLDER
#
# DEBIAN_MIRROR (http://.../debian) says from where; without it, the mirror that this machine's own apt
# uses. An archive that has left the mirror is found in a snapshot of it, or is put into FOLDER by hand.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

mirror() {
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        echo "$DEBIAN_MIRROR"
        return
    fi
    # shellcheck disable=SC2016 # apt's own names
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 2>/dev/null |
        awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }'
}

grep -v '^#' "$here/sources.lock" | while read -r name sha256 place; do
    file=${place##*/}
    if echo "$sha256  $file" | sha256sum --check --status 2>/dev/null; then
        continue
    fi
    from=$(mirror)
    [ -n "$from" ] || {
        echo "fetch: set DEBIAN_MIRROR=http://.../debian, or put $file into $1" >&2
        exit 1
    }
    echo "fetch: $name, ${from%/}/pool/$place"
    # apt's own downloader: it knows the machine's proxies, and keeps nothing whose hash is wrong.
    if ! /usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file \
        "${from%/}/pool/$place" "$file" "SHA256:$sha256" >fetch.log 2>&1; then
        cat fetch.log >&2
        echo "fetch: $file has moved on: set DEBIAN_MIRROR to a snapshot, or put the file into $1" >&2
        exit 1
    fi
done
rm -f fetch.log
