"""A PostgreSQL server for a guest: this machine's own, on a disk that is mounted read-only there.

Too much for every root. The disk has the programs, the libraries that the root lacks, and a new cluster to
be copied.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from tests import postgres
from tests.vm import image
from tests.vm.machine import Machine

MEGABYTES = 192

AS_POSTGRES = "setpriv --reuid=postgres --regid=postgres --clear-groups"

PSQL = "/usr/lib/postgresql/*/bin/psql --no-psqlrc --quiet --username=postgres --set=ON_ERROR_STOP=1"

WRITER = f"""\
#!/bin/sh
exec 4>/dev/ports/ledger
number=0
while :; do
    number=$((number + 1))
    {PSQL} -c "INSERT INTO ledger VALUES ($number, repeat('x', 200))" || exit
    echo "$number" >&4
done
"""

DATA, WAL = "/var/lib/postgresql/main", "/opt/wal"

INSTALLED = """\
set -e
mkdir /usr/lib/server
mount -o ro {device} /usr/lib/server
ln -s server/postgresql /usr/lib/postgresql
ln -s ../lib/server/share /usr/share/postgresql
echo /usr/lib/server/libraries >/etc/ld.so.conf.d/server.conf
ldconfig
grep -q ^postgres: /etc/passwd || {{
    echo 'postgres:x:901:901::/var/lib/postgresql:/bin/sh' >>/etc/passwd
    echo 'postgres:x:901:' >>/etc/group
}}
mkdir -m 755 /run/postgresql
chown postgres: /run/postgresql
"""

MADE = f"""\
set -e
mkdir -p {DATA.rpartition("/")[0]}
cp -a /usr/lib/server/cluster {DATA}
mv {DATA}/pg_wal {WAL}
ln -s {WAL} {DATA}/pg_wal
chown -R postgres: {DATA.rpartition("/")[0]} {WAL}
"""

RESTORED = f"""\
set -e
mkdir -p /run/restored
cp -a {DATA} /run/restored/main
rm /run/restored/main/pg_wal
cp -a {WAL} /run/restored/main/pg_wal
"""
"""As a restore lays it out: the WAL inside the copy, no link that leads out of it."""


def disk() -> Path:
    """The disk. Raises Unavailable; image.cache() is to be held."""
    programs = postgres.programs()
    if programs is None:
        raise image.Unavailable("needs a PostgreSQL server")
    archive = image.root_archive()

    def make(path: Path) -> None:
        inside = set(re.findall(r"[^/\n]+(?=\n)", image.run("tar", "--list", f"--file={archive}")))
        with image.mounted("ext4", path, MEGABYTES) as tree:
            _fill(tree, programs, inside)

    return image.made("postgresql.img", f"{archive.name} {image.sha256(programs / 'postgres')}", make)


def _fill(tree: Path, programs: Path, inside: set[str]) -> None:
    release = programs.parent
    shutil.copytree(release / "bin", tree / "postgresql" / release.name / "bin")
    without = shutil.ignore_patterns("bitcode", "llvmjit*", "pgxs")
    shutil.copytree(release / "lib", tree / "postgresql" / release.name / "lib", ignore=without)
    shutil.copytree(Path("/usr/share/postgresql", release.name), tree / "share" / release.name)
    libraries = tree / "libraries"
    libraries.mkdir()
    for program in ("postgres", "psql", "pg_dumpall", "pg_dump"):
        for library in re.findall(r" => (/\S+)", image.run("ldd", str(programs / program))):
            if Path(library).name not in inside:
                shutil.copy(library, libraries)
    how = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--wal-segsize=4"]
    # Made where its owner may go: this tree may stand below a folder that is root's alone.
    with tempfile.TemporaryDirectory(prefix="sf-cluster-", dir="/tmp") as folder:
        shutil.chown(folder, "postgres", "postgres")
        image.run(*AS_POSTGRES.split(), str(programs / "initdb"), "-D", f"{folder}/cluster", *how)
        image.run("cp", "--archive", f"{folder}/cluster", str(tree))


def install(machine: Machine, device: str) -> None:
    """Let the guest have the server that is on that disk of its own."""
    machine.run(INSTALLED.format(device=device)).checked()


def start(machine: Machine, data: str) -> None:
    """Start the server on ``data``, with its socket where it usually is."""
    machine.run(
        f"""
        export PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
        {AS_POSTGRES} pg_ctl -D {data} -o '-c listen_addresses=' -w -t 100 -s start \\
            </dev/null >/run/postgresql.out 2>&1 3>&- || {{
            cat /run/postgresql.out
            exit 1
        }}
        """,
        120,
    ).checked()


def start_writer(machine: Machine) -> None:
    """Commits, and into the ledger that the host keeps."""
    machine.run(f"{PSQL} -c 'CREATE TABLE ledger (number bigint PRIMARY KEY, body text)'").checked()
    machine.write("/usr/local/bin/pg-writer", WRITER, 0o755)
    machine.run("setsid pg-writer </dev/null >/run/writer.out 2>&1 3>&- &").checked()
    machine.wait_for_commits(3)


def committed(machine: Machine) -> set[int]:
    """Numbers of the commits in the server that runs in the guest."""
    return {int(line) for line in machine.run(f"{PSQL} -Atc 'SELECT number FROM ledger'").checked().split()}
