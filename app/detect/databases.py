"""PostgreSQL, MariaDB, MySQL, Redis, Valkey, MongoDB, SQLite: one function each, one instance a server."""

from __future__ import annotations

import mmap
import os
import pwd
import re

from app.detect.finding import Found, Instance, Value, contained, full_path, in_url, local, made, named
from app.detect.processes import Process
from app.detect.reading import port_in
from app.detect.sight import Sight
from app.errors import HostUnfit
from app.mechanisms.sqlite import judge

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
        data, lines = _data(sight, process)
        socket = next((s for s in sight.sockets.get(process.pid, ()) if "/.s.PGSQL." in s), "")
        unsure = []
        if len(lines) >= 5 and port_in(lines[3]):
            port, folder = port_in(lines[3]), lines[4].strip()
            if not folder:
                folder = local(sight.ports.get(process.pid, []), port) or "localhost"
                unsure.append(
                    "it has no socket, only TCP: say how the role gets in there (psql asks for no password)"
                )
        elif (match := _SOCKET.fullmatch(socket)) and port_in(match[2]):
            folder, port = match[1], port_in(match[2])
        else:
            port = next((p for _, p in sight.ports.get(process.pid, ())), 5432)
            folder = ""
            unsure.append("its socket was not seen: the default folder and port may be wrong")
        if folder.startswith("/") and not process.sees(f"{folder}/.s.PGSQL.{port}"):
            unsure.append(_hidden(folder))
        base = postgresql_instance(
            process.user, folder, port, data, [], unsure, process.option("config_file")
        )
        instance = made(process, base.name, base.what, base.policy, base.settings, base.unsure)
        found.instances.append(instance)
        if folder:
            known.add((folder, port))
        else:
            guesses.append(instance)
    others = [m for path in sight.unowned if (m := _SOCKET.fullmatch(path)) and port_in(m[2])]
    others = [m for m in others if (m[1], port_in(m[2])) not in known]
    if masters and others:
        # Each of them belongs to one of those processes whose own socket was not seen.
        found.instances = [instance for instance in found.instances if instance not in guesses]
        for match in others:
            unsure = ["its process was not seen: os_user and user are guessed, by the owner of the socket"]
            evidence = [f"socket {match[0]}"]
            user = _owner(match[0]) or "postgres"
            found.instances.append(
                postgresql_instance(user, match[1], port_in(match[2]), "", evidence, unsure)
            )


def _data(sight: Sight, process: Process) -> tuple[str, list[str]]:
    """The data folder of a postmaster, and the lines of its own postmaster.pid (none: not seen)."""
    # It works in its data folder, whatever it was started with.
    folders = [process.option("-D"), process.folder(), process.environment().get("PGDATA", "")]
    folders = [folder for folder in folders if folder.startswith("/")]
    for folder in folders:
        lines = sight.read(f"{folder}/postmaster.pid").splitlines()
        if lines and lines[0].strip() == str(process.pid):
            return folder, lines
    return (folders or [""])[0], []


def postgresql_instance(
    user: str, folder: str, port: int, data: str, evidence: list[str], unsure: list[str], config: str = ""
) -> Instance:
    """A cluster by its socket's folder, its port, its data folder and its file ("": unknown)."""
    settings: dict[str, Value] = {}
    if folder and folder not in ("/var/run/postgresql", "/run/postgresql"):
        settings["host"] = folder
    if port != 5432:
        settings["port"] = port
    if user and user != "postgres":
        settings.update(os_user=user, user=user)
        unsure = [*unsure, f"the database role is taken to be {user}, as the OS user"]
    # Debian's clusters have names, wherever their data are.
    cluster = re.fullmatch(r"/etc/postgresql/([^/]+/[^/]+)/postgresql\.conf", config)
    cluster = cluster or re.fullmatch(r"/var/lib/(?:postgresql|pgsql)/(.+?)(?:/data)?", data or "")
    name = named("postgresql", cluster[1]) if cluster and cluster[1] != "data" else named("postgresql", port)
    where = f" in {data}" if data else ""
    return Instance(name, f"PostgreSQL on port {port}{where}", "postgresql", settings, evidence, unsure)


def _hidden(path: str) -> str:
    """It may be a /tmp of its own (PrivateTmp)."""
    return f"{path} is another place to it than to us (PrivateTmp): no client here reaches its socket there"


def _owner(path: str) -> str:
    try:
        return pwd.getpwuid(os.lstat(path).st_uid).pw_name
    except (OSError, KeyError):
        return ""


def mysql(sight: Sight, found: Found) -> None:
    """Servers called mariadbd or mysqld; which it is, by file, packages, or the words in the program."""
    for process in sight.processes:
        if process.name not in ("mariadbd", "mysqld") or contained(process, "MariaDB or MySQL", found):
            continue
        kind, unsure = _which(sight, process)
        title = "MariaDB" if kind == "mariadb" else "MySQL"
        told = full_path(process, process.option("--socket"))
        sockets = _classic(sight, process)
        path = told if told in sockets or not sockets else sockets[0]
        if len(sockets) > 1 and path != told:
            unsure.append(f"it has more sockets, one may be the X plugin's: {', '.join(sockets[1:])}")
        others = {33060, 33062, port_in(process.option("--mysqlx-port", "--mysqlx_port"))}
        port = min((p for _, p in sight.ports.get(process.pid, ()) if p not in others), default=0)
        port = port or port_in(process.option("--port")) or 3306
        default = "/run/mysqld/mysqld.sock" if kind == "mariadb" else "/var/run/mysqld/mysqld.sock"
        settings: dict[str, Value] = {}
        if path and path.replace("/var/run/", "/run/") != "/run/mysqld/mysqld.sock":
            settings["socket"] = path
        if not path:
            unsure.append(f"its socket was not seen: {default} is taken")
        elif not process.sees(path):
            unsure.append(_hidden(path))
        unsure.append("the database user is taken to be root by its socket (unix_socket, auth_socket)")
        name = named(kind, port) if port != 3306 else kind
        what = f"{title} on {path or f'port {port}'}"
        found.instances.append(made(process, name, what, kind, settings, unsure))


def _classic(sight: Sight, process: Process) -> list[str]:
    """Its sockets without the X plugin's, which speaks another protocol; the usual names first."""
    own = full_path(process, process.option("--mysqlx-socket", "--mysqlx_socket"))
    sockets = [s for s in sight.paths(process) if s != own and "mysqlx" not in os.path.basename(s)]
    return sorted(sockets, key=lambda s: os.path.basename(s) not in ("mysqld.sock", "mysql.sock"))


def _which(sight: Sight, process: Process) -> tuple[str, list[str]]:
    """Which of the two policies, and what is not sure about it."""
    says = process.name == "mariadbd" or _says_mariadb(process)
    if says is not None:
        return "mariadb" if says else "mysql", []
    owners = [p for p in sight.packages if re.match(r"(mariadb|mysql)(-community)?-server", p)]
    if owners and all(p.startswith("mariadb") for p in owners):
        return "mariadb", []
    unsure = (
        [] if owners or process.exe else ["it is taken for MySQL; MariaDB before 10.5 has that name, too"]
    )
    return "mysql", unsure


def _says_mariadb(process: Process) -> bool | None:
    """Whether the program's own text names MariaDB; the file is only read. None where it cannot be."""
    try:
        with open(f"/proc/{process.pid}/exe", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= _LARGEST_PROGRAM:
                return None
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text:
                return text.find(b"MariaDB") >= 0
    except (OSError, ValueError):
        return None


_LOGIN = (
    'if it wants a password, add [secrets.password] with file = "...", and [session] with '
    'login = ["AUTH {password:quoted}"]'
)
_TITLES = {"redis-server": "redis", "valkey-server": "valkey"}


def redis(sight: Sight, found: Found) -> None:
    """Redis and Valkey: known by the title that they give themselves, of a program of theirs."""
    for process in sight.processes:
        kind = _TITLES.get(process.title) or _TITLES.get(process.name, "")
        if not kind or not process.is_program(kind) or "[sentinel]" in " ".join(process.argv):
            continue
        if contained(process, kind.capitalize(), found):
            continue
        unsure = []
        sockets = sight.paths(process)
        places = sight.ports.get(process.pid, [])
        told = re.search(r":(\d+)(?:\s|$)", " ".join(process.argv))
        port = min((p for _, p in places), default=0) or (port_in(told[1]) if told else 0)
        host = local(places, port, both=False) or "127.0.0.1"
        connect = ["-s", sockets[0]] if sockets else ["-h", host, "-p", str(port or 6379)]
        if sockets and not process.sees(sockets[0]):
            unsure.append(_hidden(sockets[0]))
        settings: dict[str, Value] = {}
        if connect != ["-h", "127.0.0.1", "-p", "6379"]:
            settings["connect"] = connect
        if process.user and process.user != kind:
            settings["os_user"] = process.user
        if (appends := _appends(sight, process)) is None:
            unsure.append("its files were not seen: whether it has an append-only file is for you to say")
        elif appends:
            settings["appendonly"] = "yes"
        unsure += [_LOGIN, "for TLS add redis-cli's own options to connect (--tls, --cacert ...)"]
        where = sockets[0] if sockets else f"{in_url(host)}:{port}" if places else f"port {port or 6379}"
        name = kind if port in (0, 6379) else named(kind, port)
        what = f"{kind.capitalize()} on {where}"
        found.instances.append(made(process, name, what, kind, settings, unsure))


def _appends(sight: Sight, process: Process) -> bool | None:
    """Whether it writes an append-only file: it has that open. None where that was not seen."""
    opened = sight.open_files.get(process.pid)
    if opened is None:
        data = process.folder()
        if not data:
            return None
        return sight.exists(f"{data}/appendonlydir") or sight.exists(f"{data}/appendonly.aof")
    return any(path.endswith(".aof") or "/appendonlydir/" in path for path in opened)


def mongodb(sight: Sight, found: Found) -> None:
    """mongod; a mongos cannot be held alone."""
    for process in sight.processes:
        if process.name == "mongos":
            words = "a sharded cluster is backed up by its own procedure"
            found.undecided.append(f"mongos (process {process.pid}): {words}")
        if process.name != "mongod" or contained(process, "MongoDB", found):
            continue
        places = sight.ports.get(process.pid, [])
        port = min((p for _, p in places), default=0) or port_in(process.option("--port")) or 27017
        host = local(places, port) or "127.0.0.1"
        settings: dict[str, Value] = {}
        if (host, port) != ("127.0.0.1", 27017):
            settings["uri"] = f"mongodb://{in_url(host)}:{port}/?directConnection=true"
        name = "mongodb" if port == 27017 else named("mongodb", port)
        unsure = ["where it has users: a file that logs in, and TLS, are for you to add to arguments"]
        found.instances.append(made(process, name, f"MongoDB on port {port}", "mongodb", settings, unsure))


def sqlite(sight: Sight, found: Found) -> None:
    """Databases that a process has open with a write-ahead log: others cannot be told from any file.

    One policy for each owner of databases: whoever else owns one that cannot be held spoils theirs alone.
    """
    holders: dict[str, list[str]] = {}
    for process in sight.processes:
        for path in sorted(set(sight.open_files.get(process.pid, ()))):
            base = path.removesuffix("-wal")
            if base == path or process.container or not process.sees(base):
                continue
            if base in holders or sight.read(base, 16).startswith("SQLite format 3"):
                holders.setdefault(base, []).append(f"{process.name} ({process.pid})")
    by_owner: dict[str, list[str]] = {}
    for path in sorted(holders):
        try:
            judge(path)
        except HostUnfit as error:
            found.undecided.append(f"SQLite: {error.message}: it cannot be held; {error.hint}")
            continue
        by_owner.setdefault(_owner(path), []).append(path)
    for owner, databases in sorted(by_owner.items()):
        evidence = [f"{path}: open in {', '.join(holders[path])}" for path in databases]
        unsure = ["only databases in WAL mode that are open just now are seen: add the others"]
        what = f"SQLite, {len(databases)} database{'s' * (len(databases) > 1)} open with a WAL"
        what += f", of user {owner}" if len(by_owner) > 1 else ""
        settings: dict[str, Value] = {"databases": list(databases)}
        name = named("sqlite", owner) if len(by_owner) > 1 else "sqlite"
        found.instances.append(Instance(name, what, "sqlite", settings, evidence, unsure))
