#!/bin/sh
# Makes a bare Debian or Ubuntu machine able to build and test: packages by apt, then .venv.
# Quick when all is there, safe to run again, and it starts no service and makes no cluster.
#
#   build/bootstrap.sh [binary|demo|lint|release|servers|test]...   what is needed
#                                  (where nothing is named: all but release and servers)
set -eu
cd "$(dirname "$0")/.."

# Never a shim of pyenv or the like: PyInstaller needs the shared library that belongs to it.
PYTHON=${PYTHON:-/usr/bin/python3}
WANT=" ${*:-binary demo lint test} "

say() { printf 'bootstrap: %s\n' "$*"; }
die() {
    printf 'bootstrap: %s\n' "$*" >&2
    exit 1
}
wants() { case $WANT in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
# Administrators' tools are looked for where root has them, also for those who are not root.
has() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

[ -x "$PYTHON" ] || die "there is no $PYTHON; install python3"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or later is needed"

missing_packages() {
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
    if wants binary; then
        # PyInstaller needs objdump and strip, and Python's shared library.
        has objdump || echo binutils
        "$PYTHON" - <<'EOF'
import ctypes, sysconfig
# Debian's interpreter has the library linked in, and says of itself that it is shared.
try:
    ctypes.CDLL(sysconfig.get_config_var("INSTSONAME"))
except OSError:
    print("libpython" + sysconfig.get_python_version())
EOF
    fi
    if wants lint || wants test; then
        has dash || echo dash
        has bash || echo bash
        has busybox || echo busybox
        has shellcheck || echo shellcheck
    fi
    # Without root the demo makes no filesystem, and needs none of their tools.
    if wants test || { wants demo && [ "$(id -u)" = 0 ]; }; then
        has mkfs.btrfs || echo btrfs-progs
        has mkfs.ext4 || echo e2fsprogs
        { has fsfreeze && has losetup; } || echo util-linux
        has mount || echo mount
    fi
    if wants release; then
        has autoconf || echo autoconf
        has automake || echo automake
        has libtoolize || echo libtool
        has patch || echo patch
        # pip asks PyInstaller's source for its name, which tries to compile its bootloader.
        has gcc || echo gcc libc6-dev
        [ -e /usr/include/zlib.h ] || echo zlib1g-dev
        has xz || echo xz-utils
        has git || echo git
        has objcopy || echo binutils
        has rpm || echo rpm
        has debootstrap || echo debootstrap
        "$PYTHON" -m pip --version >/dev/null 2>&1 || echo python3-pip
    fi
    if wants test; then
        has mkfs.xfs || echo xfsprogs
        has sqlite3 || echo sqlite3
        has ps || echo procps
        has strace || echo strace
        has lexgrog || echo man-db
        has groff || echo groff
        has psql || echo postgresql-client
        set -- /usr/lib/postgresql/*/bin/initdb
        [ -x "$1" ] || echo postgresql
        # Virtual machines are made by root alone; without it their tests are skipped.
        if [ "$(id -u)" = 0 ]; then
            has qemu-system-x86_64 || echo qemu-system-x86
            has qemu-img || echo qemu-utils
            has debootstrap || echo debootstrap
        fi
    fi
}

# Servers whose tests are skipped where they are not: named only if this release of the system has them.
wished_packages() {
    if wants test || wants servers; then
        wish mariadbd mariadb-server
        wish redis-server redis-server
        wish etcd etcd-server
        wish etcdctl etcd-client
        wish slapd slapd
        wish ldapsearch ldap-utils
        wish node nodejs
    fi
    if wants servers; then
        wish rabbitmq-server rabbitmq-server
        wish influxd influxdb
        wish influx influxdb-client
        has nbackup || [ -x /usr/lib/firebird/3.0/bin/nbackup ] || wish nbackup firebird3.0-server firebird3.0-utils
        wish podman podman
    fi
}
wish() {
    has "$1" && return
    shift
    for package; do
        ! apt-cache show "$package" >/dev/null 2>&1 || echo "$package"
    done
}

install_packages() {
    if [ "$(id -u)" != 0 ]; then
        die "not root: install these yourself, then run it again: $*"
    fi
    has apt-get || die "no apt-get here: install these yourself, by whatever name they have: $*"
    say "installing by apt: $*"
    log=$(mktemp)
    # A PostgreSQL server for the tests must neither make a cluster nor start one.
    case " $* " in
    *" postgresql "*)
        mkdir -p /etc/postgresql-common/createcluster.d
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/stillframe.conf
        ;;
    esac
    ours=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        ours=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$ours"
        chmod 755 "$ours"
    fi
    trap 'rm -f "$log" $ours' EXIT
    export DEBIAN_FRONTEND=noninteractive
    # The lists are fetched only where those at hand do not know the packages.
    if ! apt-get install --yes --quiet --no-install-recommends "$@" </dev/null >"$log" 2>&1; then
        say "fetching the package lists"
        apt-get update --quiet </dev/null >"$log" 2>&1 || {
            tail -n 20 "$log" >&2
            die "apt-get update failed"
        }
        apt-get install --yes --quiet --no-install-recommends "$@" </dev/null >"$log" 2>&1 || {
            tail -n 20 "$log" >&2
            die "apt-get install failed"
        }
    fi
    rm -f "$log" $ours
    trap - EXIT
}

missing=$(missing_packages | sort -u | tr '\n' ' ')
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of names
    install_packages $missing
fi
wished=$(wished_packages | sort -u | tr '\n' ' ')
if [ -n "$wished" ]; then
    if [ "$(id -u)" = 0 ]; then
        # shellcheck disable=SC2086 # a list of names
        install_packages $wished
    else
        say "not root: the tests of some servers are skipped; as root: apt-get install $wished"
    fi
fi

# The virtual environment, once for each state of what it is made from.
stamp=.venv/.stamp
state=$(cat build/requirements-dev.txt setup.py | sha256sum | cut -d' ' -f1)
state="$state $("$PYTHON" -c 'import sys; print(sys.version)' | tr '\n' ' ')$PWD"
if [ ! -f $stamp ] || [ "$(cat $stamp)" != "$state" ]; then
    say "making .venv with $PYTHON ($("$PYTHON" -c 'import platform; print(platform.python_version())'))"
    # Several sessions may share a tree: only one of them makes it.
    mkdir -p .build
    (
        flock 9
        [ -f $stamp ] && [ "$(cat $stamp)" = "$state" ] && exit 0
        # Cleared only for another Python: somebody may be running what stands in it.
        series=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_python_version())')
        [ -d ".venv/lib/python$series" ] || rm -rf .venv
        "$PYTHON" -m venv .venv
        .venv/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps \
            --requirement build/requirements-dev.txt 2>.build/pip.log || {
            tail -n 20 .build/pip.log >&2
            die "pip could not install build/requirements-dev.txt"
        }
        .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation \
            --editable . 2>.build/pip.log || {
            tail -n 20 .build/pip.log >&2
            die "pip could not install the tree itself"
        }
        printf '%s' "$state" >$stamp
    ) 9>.build/venv.lock
fi
