#!/bin/sh
# Builds PyInstaller's bootloader with the portable interpreter inside it, so that a program needs one
# process and one file, and unpacks nothing.
#
#   build/portable/bootloader.sh WORK SOURCE     SOURCE is PyInstaller's source; leaves WORK/run
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(cd "$1" && pwd)
archive=$(realpath "$2")
MACHINE=${MACHINE:-x86_64}
export ZIG_GLOBAL_CACHE_DIR="$work/cache" ZIG_LOCAL_CACHE_DIR="$work/cache" SOURCE_DATE_EPOCH=315532800

rm -rf "$work/build/bootloader"
mkdir -p "$work/build/bootloader"
cd "$work/build/bootloader"
tar --extract --file "$archive" --strip-components 2 --no-same-owner --wildcards '*/bootloader/src'
patch --quiet --strip 1 <"$here/bootloader.patch"

prefix=$work/prefix/stillframe
library=$prefix/lib/libpython3.13.a
for source in src/*.c; do
    "$work/tools/cc" -Os -fPIC -ffunction-sections -fdata-sections -fno-strict-aliasing -Wall -Wno-unused \
        -D_REENTRANT -DPYI_USE_POSIX_SEMAPHORE -DPYI_STATIC_PYTHON -DHAVE_UNSETENV=1 -DHAVE_MKDTEMP=1 -DHAVE_DIRNAME=1 -DHAVE_BASENAME=1 \
        -DHAVE_WCSDUP=1 -DHAVE_STDBOOL_H=1 -Isrc -I"$work/deps/include" -c "$source" -o "${source%.c}.o"
done
# Not position-independent, as Debian's own python3 is not: smaller, and no relocation at each start.
"$work/tools/cc" -o run src/*.o "$library" "$work/build/python/Modules/_hacl/libHacl_Hash_SHA2.a" \
    "$work/build/python/Modules/_decimal/libmpdec/libmpdec.a" -L"$work/deps/lib" -lsqlite3 -lffi -lz -ldl -lpthread -lm -lutil \
    -Wl,--gc-sections -Wl,--as-needed -Wl,-z,relro -Wl,-z,now -Wl,--build-id=none -no-pie -s
mv run "$work/run"
