"""Servers of vendors, search engines, and those that are stopped for a hold: one function for each."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from app.detect.finding import Found, Value, contained, full_path, in_url, local, made, named
from app.detect.processes import Process
from app.detect.sight import Sight


def oracle(sight: Sight, found: Found) -> None:
    """Instances by their process monitors: ora_pmon_SID."""
    for process in sight.processes:
        match = re.fullmatch(r"(ora|db)_pmon_(\w[\w$#]*)", process.title)
        if match is None or not process.is_program("oracle") or contained(process, "Oracle Database", found):
            continue
        sid = match[2]
        home = str(PurePosixPath(process.exe).parent.parent) if process.exe.endswith("/bin/oracle") else ""
        unsure = []
        if not home:
            home = next((h for s, h in _oratab(sight) if s == sid), "")
        if not home:
            home = "/u01/app/oracle/product/19.0.0/dbhome_1"
            unsure.append(
                "ORACLE_HOME was not seen (the program's file, /etc/oratab): oracle_home is a guess"
            )
        settings: dict[str, Value] = {"oracle_home": home, "oracle_sid": sid}
        if process.user and process.user != "oracle":
            settings["os_user"] = process.user
        found.instances.append(
            made(process, named("oracle", sid), f"Oracle Database {sid}", "oracle", settings, unsure)
        )


def _oratab(sight: Sight) -> list[tuple[str, str]]:
    lines = (sight.read("/etc/oratab") or sight.read("/var/opt/oracle/oratab")).splitlines()
    parts = [line.split(":") for line in lines if line and not line.startswith("#")]
    return [(part[0], part[1]) for part in parts if len(part) >= 2]


def hana(sight: Sight, found: Found) -> None:
    """Systems by their name server."""
    for process in sight.processes:
        if process.title != "hdbnameserver" or not process.is_program("hdbnameserver"):
            continue
        if contained(process, "SAP HANA", found):
            continue
        system = process.user.removesuffix("adm").upper() or "HDB"
        folder = os.path.dirname(process.exe) if process.exe else ""
        hdbsql = f"{folder}/hdbsql" if folder and sight.exists(f"{folder}/hdbsql") else ""
        hdbsql = hdbsql or f"/usr/sap/{system}/HDB00/exe/hdbsql"
        settings: dict[str, Value] = {
            "key": "STILLFRAME",
            "hdbsql": hdbsql,
            "os_user": process.user or "hdbadm",
        }
        unsure = [
            f"make the key, as {settings['os_user']}: hdbuserstore SET STILLFRAME HOST:PORT@SYSTEMDB ..."
        ]
        found.instances.append(
            made(process, named("hana", system), f"SAP HANA {system}", "sap-hana", settings, unsure)
        )


def db2(sight: Sight, found: Found) -> None:
    """Databases by the folders that an instance has made for them."""
    for process in sight.processes:
        if process.title != "db2sysc" or not process.is_program("db2sysc"):
            continue
        if contained(process, "Db2", found):
            continue
        home = process.home
        names = []
        if home:
            place = f"{home}/{process.user}/NODE0000"
            names = [n for n in sight.folder(place) if re.fullmatch(r"[A-Z@#$][A-Z0-9@#$_]{0,7}", n)]
            names = [n for n in names if n != "SQLDBDIR" and not re.fullmatch(r"SQL\d{5}", n)]
        if not names:
            found.undecided.append(
                f"Db2 (process {process.pid}, instance {process.user or process.uid}): its databases were "
                'not seen; write a policy with extends = "db2" for each (db2 list db directory)'
            )
        for name in names:
            settings: dict[str, Value] = {"database": name, "os_user": process.user}
            profile = f"{home}/sqllib/db2profile"
            if profile != "/home/db2inst1/sqllib/db2profile":
                settings["profile"] = profile
            found.instances.append(
                made(process, named("db2", name), f"Db2 database {name}", "db2", settings, [])
            )


def iris(sight: Sight, found: Found) -> None:
    """One instance; of several only iris list knows the names."""
    running = [
        p for p in sight.processes if p.name == "irisdb" and not contained(p, "InterSystems IRIS", found)
    ]
    if running:
        first = min(running, key=lambda p: p.pid)
        unsure = ["its name is taken to be IRIS: see iris list", "the OS user must be one that IRIS lets in"]
        settings: dict[str, Value] = {"os_user": first.user} if first.user not in ("", "irisowner") else {}
        found.instances.append(made(first, "iris", "InterSystems IRIS", "iris", settings, unsure))


def sql_server(sight: Sight, found: Found) -> None:
    """A server starts itself once more: the parent is it."""
    servers = [p for p in sight.processes if p.name == "sqlservr"]
    for process in servers:
        if any(p.pid == process.parent for p in servers) or contained(process, "SQL Server", found):
            continue
        ports = sorted(p for child in servers for _, p in sight.ports.get(child.pid, ()) if p >= 1433)
        settings: dict[str, Value] = {"login": "/etc/stillframe/sql-server.login"}
        if ports and 1433 not in ports:
            settings["server"] = f"tcp:localhost,{ports[0]}"
        unsure = ["write SQLCMDUSER=... and SQLCMDPASSWORD=... into the file login, owned by mssql, mode 600"]
        found.instances.append(made(process, "sql-server", "SQL Server", "sql-server", settings, unsure))


_JAVA = (
    ("cassandra", "Cassandra", re.compile(r"org\.apache\.cassandra\.service\.CassandraDaemon")),
    (
        "elasticsearch",
        "Elasticsearch",
        re.compile(r"org\.elasticsearch\.(bootstrap\.Elasticsearch|server)\b.*"),
    ),
    ("opensearch", "OpenSearch", re.compile(r"org\.opensearch\.bootstrap\.OpenSearch")),
    ("neo4j", "Neo4j", re.compile(r"(org|com)\.neo4j\.server\.\S*(EntryPoint|Bootstrapper)\S*")),
)


def java(sight: Sight, found: Found) -> None:
    """Servers that are a class of Java's."""
    for process in sight.processes:
        if process.name != "java":
            continue
        for policy, title, main in _JAVA:
            if any(
                main.fullmatch(word.rpartition("/")[0] or word) or main.fullmatch(word)
                for word in process.argv
            ):
                if not contained(process, title, found):
                    _java(sight, process, policy, title, found)
                break


def _java(sight: Sight, process: Process, policy: str, title: str, found: Found) -> None:
    settings: dict[str, Value] = {}
    unsure: list[str] = []
    if policy == "cassandra" and process.user not in ("", "cassandra"):
        settings["os_user"] = process.user
    if policy == "neo4j":
        # Of a process somebody made up the unit would be whatever that runs in: a login, a web server.
        known = bool(re.fullmatch(r"neo4j[\w@.:-]*\.service", process.unit))
        settings["units"] = [process.unit if known else "neo4j.service"]
        unsure = ["it is stopped for the hold: nobody can use it meanwhile"]
        if not known:
            unsure.append(
                f"which unit runs it was not seen (it is in {process.unit or 'none'}): units is a guess"
            )
    if policy in ("elasticsearch", "opensearch"):
        places = sight.ports.get(process.pid, [])
        port = min((p for _, p in places if 9200 <= p < 9300), default=9200)
        host = local(places, port) or "127.0.0.1"
        scheme = "http" if policy == "elasticsearch" else "https"
        if (host, port) != ("127.0.0.1", 9200):
            settings["url"] = f"{scheme}://{in_url(host)}:{port}"
        unsure = ["https, user and authority, if it asks for them, are for you to say (url, login)"]
    found.instances.append(made(process, policy, title, policy, settings, unsure))


def scylla(sight: Sight, found: Found) -> None:
    """Scylla is no Java."""
    for process in sight.processes:
        if process.name == "scylla" and not contained(process, "ScyllaDB", found):
            settings: dict[str, Value] = (
                {"os_user": process.user} if process.user not in ("", "scylla") else {}
            )
            found.instances.append(made(process, "scylla", "ScyllaDB", "scylla", settings, []))


def etcd(sight: Sight, found: Found) -> None:
    """Members of etcd, by their options, their environment, their file or what they have open."""
    for process in sight.processes:
        if process.name != "etcd" or contained(process, "etcd", found):
            continue
        environment = process.environment()
        file = process.option("--config-file", "-config-file") or environment.get("ETCD_CONFIG_FILE", "")
        text = sight.read(full_path(process, file)) if file else ""

        def told(
            key: str, process: Process = process, environment: dict[str, str] = environment, text: str = text
        ) -> str:
            if text:  # with a file etcd looks at nothing else
                value = re.search(rf"^{key}:[ \t]*['\"]?([^'\"\n#]*)", text, re.MULTILINE)
                return value[1].strip() if value else ""
            name = f"ETCD_{key.replace('-', '_').upper()}"
            return process.option(f"--{key}", f"-{key}") or environment.get(name, "")

        opened = next((f for f in sight.open_files.get(process.pid, ()) if f.endswith("/member/snap/db")), "")
        data = opened.removesuffix("/member/snap/db") or full_path(process, told("data-dir"))
        settings: dict[str, Value] = {}
        unsure = []
        if data:
            settings["data_dir"] = data
        else:
            unsure.append("its data folder was not seen: data_dir is the default")
        first = next((u for u in told("listen-client-urls").split(",") if _CLIENT_URL.match(u)), "")
        socket = next(iter(sight.paths(process)), "")
        if socket and not first:
            settings["connect"] = [f"--endpoints=unix://{socket}"]
        if first:
            settings["connect"] = [f"--endpoints={_CLIENT_URL.sub(_reachable, first)}"]
            if first.startswith("https:"):
                unsure.append("--cacert, --cert and --key of a client are for you to add to connect")
        if process.user not in ("", "etcd"):
            settings["os_user"] = process.user
        settings.update(etcd_programs(sight))
        found.instances.append(made(process, "etcd", f"etcd in {data or '?'}", "etcd", settings, unsure))


_CLIENT_URL = re.compile(r"(https?)://(0\.0\.0\.0|\[::\]|)(?=:|$)|(https?)://")


def _reachable(match: re.Match[str]) -> str:
    """A URL on every address is reached on this machine's own."""
    return f"{match[1]}://127.0.0.1" if match[1] else match[0]


def etcd_programs(sight: Sight) -> dict[str, Value]:
    """Before 3.5 etcdctl does what etcdutl does since."""
    return {} if sight.has_program("etcdutl") or not sight.has_program("etcdctl") else {"etcdutl": "etcdctl"}


_STOPPED = (
    ("CouchDB", re.compile(r"couchdb\.service")),
    ("GitLab", re.compile(r"gitlab-runsvdir\.service")),
    ("Jenkins", re.compile(r"jenkins\.service")),
    ("Gitea", re.compile(r"(gitea|forgejo)\.service")),
    ("Grafana", re.compile(r"grafana-server\.service")),
    ("Prometheus", re.compile(r"prometheus\.service")),
    ("ZooKeeper", re.compile(r"zookeeper\.service")),
    ("Kafka", re.compile(r"kafka\.service")),
    ("Vault", re.compile(r"vault\.service")),
    ("Consul", re.compile(r"consul\.service")),
)
"""Servers whose own way, if there is one, asks for more than can be seen: told, and stopped on wish."""


def services(sight: Sight, found: Found) -> None:
    """What systemd runs and can stop for a hold: said, and not written, for it stops work."""
    seen = {process.unit for process in sight.processes if process.unit and not process.container}
    for unit in sorted(seen):
        for title, pattern in _STOPPED:
            if pattern.fullmatch(unit):
                found.undecided.append(
                    f"{title} ({unit}): no shipped policy is for it; to have it stopped for the hold: "
                    f'app init {named(title)} --from service, units = ["{unit}"]'
                )
