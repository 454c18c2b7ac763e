"""PostgreSQL, MariaDB, MySQL, Redis, Valkey, MongoDB, SQLite: one function each, one instance a server."""

from __future__ import annotations

import mmap
import os
import re

from app.detect.finding import Found, Instance, contained, named
from app.detect.sight import Process, Sight, port_in

_LOCAL = ("0.0.0.0", "::", "127.0.0.1", "::1")  # noqa: S104 - compared, never bound
_LARGEST_PROGRAM = 512 << 20
_SOCKET = re.compile(r"(.*)/\.s\.PGSQL\.(\d+)")


def postgresql(sight: Sight, found: Found) -> None:
    """Postmasters, by what they wrote into postmaster.pid; and sockets whose owner cannot be told."""
    known: set[tuple[str, int]] = set()
    guesses: list[Instance] = []
    names = {p.pid: p.name for p in sight.processes}
    masters = [
        p
        for p in sight.processes
        if p.name in ("postgres", "postmaster") and names.get(p.parent) not in ("postgres", "postmaster")
    ]
    for process in masters:
        if contained(process, "PostgreSQL", found):
            continue
        data = process.option("-D") or _open_below(sight, process, "/postmaster.pid", "/global/")
        lines = sight.read(f"{data}/postmaster.pid").splitlines() if data.startswith("/") else []
        socket = next((s for s in sight.sockets.get(process.pid, ()) if "/.s.PGSQL." in s), "")
        unsure = []
        if len(lines) >= 5 and lines[0].strip() == str(process.pid) and port_in(lines[3]):
            port, folder = port_in(lines[3]), lines[4].strip() or "localhost"
        elif (match := _SOCKET.fullmatch(socket)) and port_in(match[2]):
            folder, port = match[1], port_in(match[2])
        else:
            port = next((p for _, p in sight.ports.get(process.pid, ())), 5432)
            folder = ""
            unsure.append("its socket was not seen: the default folder and port may be wrong")
        made = postgresql_instance(process.user, folder, port, data, [f"process {process.pid}"], unsure)
        found.instances.append(made)
        if folder:
            known.add((folder, port))
        else:
            guesses.append(made)
    others = [m for path in sight.unowned if (m := _SOCKET.fullmatch(path)) and port_in(m[2])]
    others = [m for m in others if (m[1], port_in(m[2])) not in known]
    if masters and others:
        # Each of them belongs to one of those processes whose own socket was not seen.
        found.instances = [instance for instance in found.instances if instance not in guesses]
        for match in others:
            unsure = ["its process was not seen: os_user and user are guessed"]
            evidence = [f"socket {match[0]}"]
            found.instances.append(
                postgresql_instance("postgres", match[1], port_in(match[2]), "", evidence, unsure)
            )


def postgresql_instance(
    user: str, folder: str, port: int, data: str, evidence: list[str], unsure: list[str]
) -> Instance:
    """A cluster by its socket's folder ("": unknown), its port and its data folder ("": unknown)."""
    settings: dict[str, str | int | list[str]] = {}
    if folder and folder not in ("/var/run/postgresql", "/run/postgresql"):
        settings["host"] = folder
    if port != 5432:
        settings["port"] = port
    if user and user != "postgres":
        settings.update(os_user=user, user=user)
        unsure = [*unsure, f"the database role is taken to be {user}, as the OS user"]
    cluster = re.fullmatch(r"/var/lib/(?:postgresql|pgsql)/(.+?)(?:/data)?", data or "")
    name = named("postgresql", cluster[1]) if cluster and cluster[1] != "data" else named("postgresql", port)
    where = f" in {data}" if data else ""
    return Instance(name, f"PostgreSQL on port {port}{where}", "postgresql", settings, evidence, unsure)


def mysql(sight: Sight, found: Found) -> None:
    """Servers called mariadbd or mysqld; which it is, by file, packages, or the words in the program."""
    for process in sight.processes:
        if process.name not in ("mariadbd", "mysqld") or contained(process, "MariaDB or MySQL", found):
            continue
        kind, unsure = _which(sight, process)
        title = "MariaDB" if kind == "mariadb" else "MySQL"
        sockets = [s for s in sight.sockets.get(process.pid, ()) if not s.endswith("mysqlx.sock")]
        path = sockets[0] if sockets else process.option("--socket")
        port = next((p for _, p in sight.ports.get(process.pid, ()) if p not in (33060, 33062)), 0)
        port = port or port_in(process.option("--port")) or 3306
        default = "/run/mysqld/mysqld.sock" if kind == "mariadb" else "/var/run/mysqld/mysqld.sock"
        settings: dict[str, str | int | list[str]] = {}
        if path and path.replace("/var/run/", "/run/") != "/run/mysqld/mysqld.sock":
            settings["socket"] = path
        if not path:
            unsure.append(f"its socket was not seen: {default} is taken")
        unsure.append("the database user is taken to be root by its socket (unix_socket, auth_socket)")
        found.instances.append(
            Instance(
                named(kind, port) if port != 3306 else kind,
                f"{title} on {path or f'port {port}'}",
                kind,
                settings,
                [f"process {process.pid}"],
                unsure,
            )
        )


def _which(sight: Sight, process: Process) -> tuple[str, list[str]]:
    """Which of the two policies, and what is not sure about it."""
    if process.name == "mariadbd" or _says_mariadb(process):
        return "mariadb", []
    owners = [p for p in sight.packages if re.match(r"(mariadb|mysql)(-community)?-server", p)]
    if owners and all(p.startswith("mariadb") for p in owners):
        return "mariadb", []
    unsure = (
        [] if owners or process.exe else ["it is taken for MySQL; MariaDB before 10.5 has that name, too"]
    )
    return "mysql", unsure


def _says_mariadb(process: Process) -> bool:
    """Whether the program's own text names MariaDB; the file is only read."""
    try:
        with open(f"/proc/{process.pid}/exe", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= _LARGEST_PROGRAM:
                return False
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text:
                return text.find(b"MariaDB") >= 0
    except (OSError, ValueError):
        return False


def redis(sight: Sight, found: Found) -> None:
    """Redis and Valkey: known by the title that they give themselves."""
    for process in sight.processes:
        kind = {"redis-server": "redis", "valkey-server": "valkey"}.get(process.title)
        if kind is None or "[sentinel]" in " ".join(process.argv):
            continue
        title = kind.capitalize()
        if contained(process, title, found):
            continue
        unsure = []
        sockets = sight.sockets.get(process.pid, [])
        ports = [p for _, p in sight.ports.get(process.pid, ())]
        told = re.search(r":(\d+)(?:\s|$)", " ".join(process.argv))
        port = min(ports) if ports else port_in(told[1]) if told else 0
        connect = ["-s", sockets[0]] if sockets else ["-h", "127.0.0.1", "-p", str(port or 6379)]
        settings: dict[str, str | int | list[str]] = {}
        if connect != ["-h", "127.0.0.1", "-p", "6379"]:
            settings["connect"] = connect
        if process.user and process.user != kind:
            settings["os_user"] = process.user
        data = _link(f"/proc/{process.pid}/cwd")
        if not data:
            unsure.append("its folder was not seen: whether it has an append-only file is for you to say")
        elif sight.exists(f"{data}/appendonlydir") or sight.exists(f"{data}/appendonly.aof"):
            settings["appendonly"] = "yes"
        unsure.append("a password, if it has one, and TLS are for you to add to connect")
        where = sockets[0] if sockets else f"port {port or 6379}"
        name = kind if port in (0, 6379) else named(kind, port)
        evidence = [f"process {process.pid}"]
        found.instances.append(Instance(name, f"{title} on {where}", kind, settings, evidence, unsure))


def mongodb(sight: Sight, found: Found) -> None:
    """mongod; a mongos cannot be held alone."""
    for process in sight.processes:
        if process.name == "mongos":
            words = "a sharded cluster is backed up by its own procedure"
            found.undecided.append(f"mongos (process {process.pid}): {words}")
        if process.name != "mongod" or contained(process, "MongoDB", found):
            continue
        ports = [p for _, p in sight.ports.get(process.pid, ())]
        port = min(ports) if ports else port_in(process.option("--port")) or 27017
        settings: dict[str, str | int | list[str]] = {}
        if port != 27017:
            settings["uri"] = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        name = "mongodb" if port == 27017 else named("mongodb", port)
        unsure = ["where it has users: a file that logs in, and TLS, are for you to add to arguments"]
        what = f"MongoDB on port {port}"
        found.instances.append(Instance(name, what, "mongodb", settings, [f"process {process.pid}"], unsure))


def sqlite(sight: Sight, found: Found) -> None:
    """Databases that a process has open with a write-ahead log: others cannot be told from any file."""
    holders: dict[str, list[str]] = {}
    for process in sight.processes:
        for path in sight.open_files.get(process.pid, ()):
            base = path.removesuffix("-wal")
            if base == path or process.container or base in holders:
                continue
            if sight.read(base, 16).startswith("SQLite format 3"):
                holders.setdefault(base, []).append(f"{process.name} ({process.pid})")
    if holders:
        databases = sorted(holders)
        evidence = [f"{path}: open in {', '.join(holders[path])}" for path in databases]
        unsure = ["only databases in WAL mode that are open just now are seen: add the others"]
        what = f"SQLite, {len(databases)} database{'s' * (len(databases) > 1)} open with a WAL"
        settings: dict[str, str | int | list[str]] = {"databases": list(databases)}
        found.instances.append(Instance("sqlite", what, "sqlite", settings, evidence, unsure))


def _open_below(sight: Sight, process: Process, *marks: str) -> str:
    """The folder of a server by what it has open in it, or by where it is."""
    for path in sight.open_files.get(process.pid, ()):
        for mark in marks:
            if mark in path:
                return path[: path.index(mark)]
    return _link(f"/proc/{process.pid}/cwd")


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
