"""Servers that are installed: of an image all there is to see, of a machine those that do not run."""

from __future__ import annotations

import re

from app.detect.daemons import CONFIGURATIONS, openldap_databases
from app.detect.databases import postgresql_instance
from app.detect.finding import Found, Instance, Value, named
from app.detect.reading import port_in
from app.detect.sight import Sight
from app.detect.systems import etcd_programs

_PACKAGES = (
    ("mariadb", "MariaDB", r"mariadb-server(-\d.*)?", r"mariadb\.service"),
    ("mysql", "MySQL", r"(mysql-server(-core)?(-\d.*)?|mysql-community-server)", r"mysqld?\.service"),
    ("redis", "Redis", r"redis-server", r"redis(-server)?(@)?\.service"),
    ("valkey", "Valkey", r"valkey-server", r"valkey(-server)?(@)?\.service"),
    ("mongodb", "MongoDB", r"mongodb-(org|enterprise)-server|mongodb-server(-core)?", r"mongod\.service"),
    ("etcd", "etcd", r"etcd(-server)?", r"etcd\.service"),
    ("rabbitmq", "RabbitMQ", r"rabbitmq-server", r"rabbitmq-server\.service"),
    ("influxdb", "InfluxDB 1", r"influxdb", r"influxdb\.service"),
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
    _postgresql(sight, found)
    if "openldap" not in running:
        _openldap(sight, found)
    if "firebird" not in running and any(
        re.match(r"firebird\d?.*-server(-core)?$", p) for p in sight.packages
    ):
        found.undecided.append(
            "Firebird is installed; for each of its databases: app init NAME --from firebird"
        )
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
            if policy == "etcd":
                settings.update(_etcd(sight))
            found.instances.append(Instance(policy, title, policy, settings, evidence, unsure, running=False))


def _etcd(sight: Sight) -> dict[str, Value]:
    """Debian's package has its member one folder deeper; its programs may be old ones."""
    place = "/var/lib/etcd/default"
    return {**({"data_dir": place} if sight.exists(place) else {}), **etcd_programs(sight)}


def _openldap(sight: Sight, found: Found) -> None:
    for folder in CONFIGURATIONS:
        for instance in openldap_databases(sight, folder, ""):
            instance.running = False
            found.instances.append(instance)


def _postgresql(sight: Sight, found: Found) -> None:
    """Clusters of Debian's kind, each with its configuration; or a data folder of RHEL's kind.

    Those that run are left out: they were found with all that they were started with.
    """
    running = [instance for instance in found.instances if instance.policy == "postgresql"]
    for version in sight.folder("/etc/postgresql"):
        for cluster in sight.folder(f"/etc/postgresql/{version}"):
            path = f"/etc/postgresql/{version}/{cluster}/postgresql.conf"
            text = sight.read(path)
            if text and named("postgresql", version, cluster) not in {i.name for i in running}:
                data = _setting(text, "data_directory")
                usual = f"/var/lib/postgresql/{version}/{cluster}"
                _cluster(found, text, data if data.startswith("/") else usual, path)
    places = ["/var/lib/pgsql/data", *(f"/var/lib/pgsql/{v}/data" for v in sight.folder("/var/lib/pgsql"))]
    for place in places:
        if sight.read(f"{place}/PG_VERSION") and not running:
            _cluster(found, sight.read(f"{place}/postgresql.conf"), place, f"{place}/PG_VERSION")


def _cluster(found: Found, text: str, data: str, evidence: str) -> None:
    port = _setting(text, "port")
    folders = _setting(text, "unix_socket_directories") or _setting(text, "unix_socket_directory")
    unsure = ["read from its configuration file: what it includes or is started with was not seen"]
    number = port_in(port) or 5432
    folder = folders.split(",")[0].strip()
    folder = folder if folder.startswith("/") else ""
    instance = postgresql_instance("postgres", folder, number, data, [evidence], unsure, evidence)
    instance.running = False
    if _place(instance) not in [_place(i) for i in found.instances if i.running and i.policy == "postgresql"]:
        found.instances.append(instance)


def _place(instance: Instance) -> tuple[Value | None, Value | None]:
    """Two clusters cannot have one socket."""
    return instance.settings.get("host"), instance.settings.get("port")


def _setting(text: str, name: str) -> str:
    """The last value of a setting in postgresql.conf, "" if it is not set."""
    values = re.findall(
        rf"^\s*{name}\s*(?:=|\s)\s*('(?:[^'\n]|'')*'|[^\s#']+)", text, re.MULTILINE | re.IGNORECASE
    )
    return values[-1].strip("'").replace("''", "'") if values else ""
