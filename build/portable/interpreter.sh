#!/bin/sh
# Builds the interpreter that the release is frozen with: CPython and the libraries that it needs, all
# of it static, against glibc 2.17's symbols. Only libc, libm and the loader stay outside.
#
#   build/portable/interpreter.sh WORK     leaves WORK/prefix; WORK/sources is kept and used offline
#
# The same sources give the same bytes wherever WORK is.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
work=$(cd "$1" && pwd)
GLIBC=2.17
MACHINE=${MACHINE:-x86_64}
JOBS=${JOBS:-$(nproc)}
PYTHON=${PYTHON:-/usr/bin/python3}
export SOURCE_DATE_EPOCH=315532800 PYTHONHASHSEED=0 LC_ALL=C TZ=UTC
umask 022

say() { printf 'portable: %s\n' "$*"; }
# Runs a step with its output in a log, whose end is shown where it fails.
step() {
    title=$1
    shift
    say "$title"
    "$@" >"$work/log" 2>&1 </dev/null || {
        tail -n 15 "$work/log" | cut -c 1-400 >&2
        say "$title: failed" >&2
        exit 1
    }
}

stamp=$(cat "$here"/sources.lock "$here"/requirements-tools.txt "$here"/interpreter.sh "$here"/modules.local | sha256sum)
if [ -f "$work/prefix/.stamp" ] && [ "$(cat "$work/prefix/.stamp")" = "$stamp $MACHINE" ]; then
    exit 0
fi
rm -rf "$work/prefix" "$work/build"
mkdir -p "$work/tools" "$work/build" "$work/prefix" "$work/cache"

"$here/fetch.sh" "$work/sources"

# --- the compiler ------------------------------------------------------------------------------------

step "fetching the compiler" "$here/wheels.sh" "$work" tools "$here/requirements-tools.txt"
export ZIG_GLOBAL_CACHE_DIR="$work/cache" ZIG_LOCAL_CACHE_DIR="$work/cache"
for tool in cc ar ranlib; do
    case $tool in
    # The host's headers and libraries are never looked at. Paths of this machine stay out.
    cc) line="exec '$work/tools/site/ziglang/zig' cc -target $MACHINE-linux-gnu.$GLIBC -Wno-date-time \
-ffile-prefix-map=$work=/stillframe -fdebug-compilation-dir=/stillframe \"\$@\"" ;;
    *) line="exec '$work/tools/site/ziglang/zig' $tool \"\$@\"" ;;
    esac
    printf '#!/bin/sh\n%s\n' "$line" >"$work/tools/$tool"
    chmod 755 "$work/tools/$tool"
done
export CC="$work/tools/cc" AR="$work/tools/ar" RANLIB="$work/tools/ranlib"
export PKG_CONFIG_LIBDIR="$work/deps/lib/pkgconfig" PKG_CONFIG_PATH=
COMMON="-Os -fPIC -ffunction-sections -fdata-sections -fno-strict-aliasing"
deps=$work/deps
rm -rf "$deps"
mkdir -p "$deps/include" "$deps/lib/pkgconfig"

unpack() {
    mkdir -p "$work/build/$1"
    place=$(awk -v name="$1" '$1 == name { print $3 }' "$here/sources.lock")
    tar --extract --file "$work/sources/${place##*/}" --directory "$work/build/$1" --strip-components 1 \
        --no-same-owner
    cd "$work/build/$1"
}

# --- libraries ---------------------------------------------------------------------------------------

unpack zlib
CFLAGS=$COMMON step "zlib: configure" ./configure --static --prefix="$deps"
step "zlib" make -j "$JOBS" libz.a
cp zlib.h zconf.h "$deps/include/"
cp libz.a "$deps/lib/"

unpack libffi
# The one macro of libtool's that would need libltdl's headers: no symbol has an underscore on ELF.
sed -i 's/^LT_SYS_SYMBOL_USCORE$/sys_symbol_underscore=no/' configure.ac
step "libffi: autoconf" autoreconf --install --force
step "libffi: configure" ./configure --host="$MACHINE-linux-gnu" --prefix="$deps" --disable-shared \
    --disable-docs --disable-multi-os-directory --disable-exec-static-tramp CFLAGS="$COMMON"
step "libffi" make -j "$JOBS" install

unpack sqlite
# The amalgamation is made by the source's own little Tcl, built for this machine.
step "sqlite: configure" ./configure --disable-tcl --disable-readline --disable-shared
step "sqlite: amalgamation" make sqlite3.c
# Virtual tables that a database of an operator's may hold, so that its schema can be read.
# shellcheck disable=SC2086 # a list of options
step "sqlite" "$CC" $COMMON -DSQLITE_THREADSAFE=1 -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_DEFAULT_MEMSTATUS=0 \
    -DSQLITE_ENABLE_FTS4 -DSQLITE_ENABLE_FTS5 -DSQLITE_ENABLE_RTREE -c sqlite3.c -o sqlite3.o
"$AR" rcs "$deps/lib/libsqlite3.a" sqlite3.o
cp sqlite3.h sqlite3ext.h "$deps/include/"

# --- CPython -----------------------------------------------------------------------------------------

unpack python
# Codecs are needed before any archive can be read: part of the interpreter, not files beside it.
sed -i "s/^ *#'<encodings\.\*>',/        '<encodings>', 'encodings.aliases', 'encodings.ascii', 'encodings.latin_1', 'encodings.utf_8',/" \
    Tools/build/freeze_modules.py
grep -q "'encodings.utf_8'" Tools/build/freeze_modules.py || {
    say "freeze_modules.py has changed: the codecs are not frozen" >&2
    exit 1
}
step "python: frozen modules" "$PYTHON" Tools/build/freeze_modules.py
cp "$here/modules.local" Modules/Setup.local
# py_cv_module_*: found by looking at the host, were it not told.
step "python: configure" ./configure --host="$MACHINE-linux-gnu" --build="$MACHINE-linux-gnu" \
    --prefix=/stillframe --disable-shared --without-ensurepip --without-doc-strings --disable-test-modules \
    --without-readline --without-system-libmpdec --with-pymalloc --with-computed-gotos \
    MODULE_BUILDTYPE=static OPT="-DNDEBUG $COMMON" \
    CFLAGS="-I$deps/include" CPPFLAGS="-I$deps/include" LDFLAGS="-L$deps/lib" \
    ZLIB_CFLAGS="-I$deps/include" ZLIB_LIBS="-L$deps/lib -lz" \
    LIBFFI_CFLAGS="-I$deps/include" LIBFFI_LIBS="-L$deps/lib -lffi" \
    LIBSQLITE3_CFLAGS="-I$deps/include" LIBSQLITE3_LIBS="-L$deps/lib -lsqlite3"
step "python" make -j "$JOBS" python libpython3.13.a
step "python: install" make DESTDIR="$work/prefix" commoninstall bininstall inclinstall libainstall
say "CPython $("$work/prefix/stillframe/bin/python3.13" -c 'import platform; print(platform.python_version())')"
printf '%s %s' "$stamp" "$MACHINE" >"$work/prefix/.stamp"
