"""Servers that are installed: of an image all there is to see, of a machine those that do not run."""

from __future__ import annotations

import re

from app.detect.databases import postgresql_instance
from app.detect.finding import Found, Instance, Value
from app.detect.sight import Sight, port_in

_PACKAGES = (
    ("mariadb", "MariaDB", r"mariadb-server(-\d.*)?", r"mariadb\.service"),
    ("mysql", "MySQL", r"(mysql-server(-core)?(-\d.*)?|mysql-community-server)", r"mysqld?\.service"),
    ("redis", "Redis", r"redis-server", r"redis(-server)?(@)?\.service"),
    ("valkey", "Valkey", r"valkey-server", r"valkey(-server)?(@)?\.service"),
    ("mongodb", "MongoDB", r"mongodb-(org|enterprise)-server|mongodb-server(-core)?", r"mongod\.service"),
    ("etcd", "etcd", r"etcd(-server)?", r"etcd\.service"),
    ("elasticsearch", "Elasticsearch", r"elasticsearch", r"elasticsearch\.service"),
    ("opensearch", "OpenSearch", r"opensearch", r"opensearch\.service"),
    ("cassandra", "Cassandra", r"cassandra", r"cassandra\.service"),
    ("scylla", "ScyllaDB", r"scylla-server", r"scylla-server\.service"),
    ("neo4j", "Neo4j", r"neo4j(-enterprise)?", r"neo4j\.service"),
    ("sql-server", "SQL Server", r"mssql-server", r"mssql-server\.service"),
)
"""Policy, title, packages of dpkg, unit files."""

_NEEDED: dict[str, dict[str, Value]] = {"sql-server": {"login": "/etc/stillframe/sql-server.login"}}


def installed(sight: Sight, found: Found) -> None:
    """Add what is installed and was not found running."""
    running = {instance.policy for instance in found.instances}
    if "postgresql" not in running:
        _postgresql(sight, found)
    if running & {"mariadb", "mysql"}:
        running |= {"mariadb", "mysql"}  # the one's packages may have names of the other's
    for policy, title, packages, units in _PACKAGES:
        if policy in running:
            continue
        here = sorted(p for p in sight.packages if re.fullmatch(packages, p))
        files = sight.units(units)
        if policy == "mysql" and any(i.policy == "mariadb" for i in found.instances):
            continue  # MariaDB ships mysql.service, too
        if here or files:
            evidence = [f"package {p} {sight.packages[p]}" for p in here] + [f"unit file {f}" for f in files]
            unsure = ["its settings are the policy's defaults: the server was not seen running"]
            settings = dict(_NEEDED.get(policy, {}))
            if settings:
                unsure.append(f"for you to make: {', '.join(map(str, settings.values()))}")
            found.instances.append(Instance(policy, title, policy, settings, evidence, unsure, running=False))


def _postgresql(sight: Sight, found: Found) -> None:
    """Clusters of Debian's kind, each with its configuration; or a data folder of RHEL's kind."""
    for version in sight.folder("/etc/postgresql"):
        for cluster in sight.folder(f"/etc/postgresql/{version}"):
            path = f"/etc/postgresql/{version}/{cluster}/postgresql.conf"
            text = sight.read(path)
            if text:
                _cluster(found, text, f"/var/lib/postgresql/{version}/{cluster}", path)
    places = ["/var/lib/pgsql/data", *(f"/var/lib/pgsql/{v}/data" for v in sight.folder("/var/lib/pgsql"))]
    for place in places:
        if sight.read(f"{place}/PG_VERSION"):
            _cluster(found, sight.read(f"{place}/postgresql.conf"), place, f"{place}/PG_VERSION")


def _cluster(found: Found, text: str, data: str, evidence: str) -> None:
    port = _setting(text, "port")
    folders = _setting(text, "unix_socket_directories") or _setting(text, "unix_socket_directory")
    unsure = ["read from its configuration file: what it includes or is started with was not seen"]
    number = port_in(port) or 5432
    folder = folders.split(",")[0].strip()
    made = postgresql_instance(
        "postgres", folder if folder.startswith("/") else "", number, data, [evidence], unsure
    )
    made.running = False
    found.instances.append(made)


def _setting(text: str, name: str) -> str:
    """The last value of a setting in postgresql.conf, "" if it is not set."""
    values = re.findall(
        rf"^\s*{name}\s*(?:=|\s)\s*('(?:[^'\n]|'')*'|[^\s#']+)", text, re.MULTILINE | re.IGNORECASE
    )
    return values[-1].strip("'").replace("''", "'") if values else ""
