"""RabbitMQ, OpenLDAP, InfluxDB, Firebird: one function each, one instance a node, database or server.

Sources: rabbitmq-env.conf(5), erl(1); slapd(8), slapd-config(5), ldif(5); InfluxDB 1.8, "Configuration
settings"; Firebird's ods.h (header page).
"""

from __future__ import annotations

import base64
import os
import re
import tomllib
import urllib.parse
from typing import Any

from app.detect.finding import Found, Instance, Value, contained, full_path, in_url, local, made, named
from app.detect.processes import Process
from app.detect.reading import port_in
from app.detect.sight import Sight

_NODE = re.compile(
    r"(/.*)/([^/@]+@[^/@]+)/(?:quorum|coordination|msg_stores|[^/]+\.(?:DCD|LOG|TAB|DAT))(?:/.*)?"
)


CONTROL = "/usr/lib/rabbitmq/bin/rabbitmqctl"


_DISCONNECTED = (
    'clients are disconnected for the hold; not with mode = "definitions", which gives level filesystem'
)


def rabbitmq(sight: Sight, found: Found) -> None:
    """Erlang's machine with rabbit in it; node and folder by what it has open, or by its environment."""
    for process in sight.processes:
        pairs = zip(process.argv, process.argv[1:], strict=False)
        if not process.is_program("beam") or ("rabbit", "boot") not in pairs:
            continue
        if contained(process, "RabbitMQ", found):
            continue
        environment = process.environment()
        opened = filter(None, map(_NODE.fullmatch, sight.open_files.get(process.pid, ())))
        place = next(opened, None)
        node = place[2] if place else environment.get("RABBITMQ_NODENAME", "")
        folder = place[1] if place else environment.get("RABBITMQ_MNESIA_BASE", "")
        settings: dict[str, Value] = {}
        unsure = [_DISCONNECTED]
        if node and node != f"rabbit@{os.uname().nodename.partition('.')[0]}":
            settings["connect"] = [
                "--node",
                node,
                *(["--longnames"] if "." in node.partition("@")[2] else []),
            ]
        if folder and folder != "/var/lib/rabbitmq/mnesia":
            settings["folder"] = folder
        if not place:
            unsure.append("its folder and node were not seen: they are guessed")
        if process.user not in ("", "rabbitmq"):
            settings["os_user"] = process.user
        name = "rabbitmq" if node.partition("@")[0] in ("", "rabbit") else named("rabbitmq", node)
        what = f"RabbitMQ, node {node or '?'}"
        instance = made(process, name, what, "rabbitmq", settings, unsure)
        # Where its control program looks for the cookie and for the node.
        home = environment.get("HOME", "")
        if home.startswith("/") and home != process.home:
            instance.environment["HOME"] = home
            if sight.exists(CONTROL):  # Debian's own rabbitmqctl goes to /var/lib/rabbitmq, whatever HOME is
                settings["rabbitmqctl"] = CONTROL
        port = port_in(process.option("-epmd_port") or environment.get("ERL_EPMD_PORT", "")) or 4369
        if port != 4369:
            instance.environment["ERL_EPMD_PORT"] = str(port)
        found.instances.append(instance)


CONFIGURATIONS = ("/etc/ldap/slapd.d", "/etc/openldap/slapd.d")


def openldap(sight: Sight, found: Found) -> None:
    """Databases of each slapd, by the files of its cn=config."""
    for process in sight.processes:
        if process.name != "slapd" or contained(process, "OpenLDAP", found):
            continue
        urls = process.option("-h").split()
        uri = next((url for url in urls if url.startswith("ldapi://")), "")
        folder = full_path(process, process.option("-F"))
        if process.option("-f") and not folder:
            found.undecided.append(
                f"OpenLDAP (process {process.pid}) has a slapd.conf, and no cn=config that can be asked: "
                "convert it (slaptest -f ... -F ...)"
            )
            continue
        folder = folder or next((f for f in CONFIGURATIONS if sight.folder(f)), CONFIGURATIONS[0])
        unsure = []
        if not uri:
            unsure.append("it has no ldapi:/// (slapd -h), by which root may ask it: add that")
        elif (path := urllib.parse.unquote(uri.removeprefix("ldapi://").rstrip("/"))) and not process.sees(
            path
        ):
            unsure.append(f"its socket {path} is not where we see it (PrivateTmp)")
        instances = openldap_databases(sight, folder, uri)
        if not instances:
            found.undecided.append(
                f"OpenLDAP (process {process.pid}): no mdb database was seen in {folder}; for each: "
                "app init NAME --from openldap"
            )
        for base in instances:
            sentences = [*unsure, *base.unsure]
            found.instances.append(made(process, base.name, base.what, "openldap", base.settings, sentences))


def openldap_databases(sight: Sight, folder: str, uri: str) -> list[Instance]:
    """One for each mdb database that the files of cn=config name."""
    found = []
    for file in sight.folder(f"{folder}/cn=config"):
        match = re.fullmatch(r"(olcDatabase=\{\d+\}mdb)\.ldif", file)
        if match is None:
            continue
        path = f"{folder}/cn=config/{file}"
        suffix = _ldif(sight.read(path), "olcSuffix")
        if not suffix or re.search(r'["\\]', suffix):
            continue
        settings: dict[str, Value] = {"suffix": suffix}
        if match[1] != "olcDatabase={1}mdb":
            settings["database"] = f"{match[1]},cn=config"
        if uri and uri.rstrip("/") != "ldapi:":
            settings["uri"] = uri
        unsure = [
            'nothing stands still, level filesystem; mode = "read-only" refuses writers, level application'
        ]
        what = f"OpenLDAP, {suffix}"
        found.append(Instance(named("openldap", suffix), what, "openldap", settings, [path], unsure))
    return found


def _ldif(text: str, key: str) -> str:
    """The first value of an attribute; "" if there is none, or none that is text."""
    value = re.search(rf"^{key}(::?) ?(.*)$", text.replace("\n ", ""), re.MULTILINE)
    if value is None:
        return ""
    if value[1] == ":":
        return value[2].strip()
    try:
        return base64.b64decode(value[2], validate=True).decode()
    except ValueError:
        return ""


_ONLINE = (
    'nothing stands still, level filesystem; mode = "backup" puts its own backup into the snapshot, level '
    "application"
)


def influxdb(sight: Sight, found: Found) -> None:
    """Servers of InfluxDB 1, by their configuration files and what they listen on."""
    for process in sight.processes:
        if process.name != "influxd" or (len(process.argv) > 1 and process.argv[1] in _INFLUX_TOOLS):
            continue
        if contained(process, "InfluxDB", found):
            continue
        if any(
            path.endswith(("/influxd.bolt", "/influxd.sqlite"))
            for path in sight.open_files.get(process.pid, ())
        ):
            found.undecided.append(
                f"InfluxDB 2 (process {process.pid}): no shipped policy is for it (influx backup)"
            )
            continue
        environment = process.environment()
        given = process.option("-config", "--config") or environment.get("INFLUXDB_CONFIG_PATH", "")
        home = f"{environment.get('HOME', '')}/.influxdb/influxdb.conf"
        path = full_path(process, given) or next(
            (p for p in (home, "/etc/influxdb/influxdb.conf") if p.startswith("/") and sight.exists(p)), ""
        )
        unsure = [_ONLINE]
        configuration = _toml(sight.read(path)) if path else {}
        if not configuration:
            unsure.append(
                "its configuration file was not seen: what differs from the defaults is for you to say"
            )
        settings = _influxdb(sight, process, configuration)
        if process.user not in ("", "influxdb"):
            settings["os_user"] = process.user
        http = settings.get("connect")
        name = named("influxdb", http[-1]) if isinstance(http, list) and http[0] == "-host" else "influxdb"
        found.instances.append(made(process, name, "InfluxDB 1", "influxdb", settings, unsure))


_INFLUX_TOOLS = ("backup", "restore", "config", "version", "help", "-h", "--help")


def _influxdb(sight: Sight, process: Process, configuration: dict[str, Any]) -> dict[str, Value]:
    settings: dict[str, Value] = {}
    data = _table(configuration, "meta").get("dir")
    if isinstance(data, str) and data.startswith("/") and data != "/var/lib/influxdb/meta":
        settings["folder"] = os.path.dirname(os.path.normpath(data))
    http = _table(configuration, "http")
    places = sight.ports.get(process.pid, [])
    backup = _port(configuration.get("bind-address"), 8088)
    port = _port(http.get("bind-address"), 8086)
    if places and not any(p == port for _, p in places):
        others = sorted({p for _, p in places} - {backup})
        port = others[0] if others else port
    host = local(places, port) or "127.0.0.1"
    bind = http.get("bind-socket")
    if (
        not any(p == port for _, p in places)
        and http.get("unix-socket-enabled") is True
        and isinstance(bind, str)
    ):
        settings["connect"] = ["-socket", bind]
    elif (host, port) != ("127.0.0.1", 8086):
        settings["connect"] = ["-host", host, "-port", str(port)]
    if http.get("https-enabled") is True and "connect" in settings:
        settings["connect"] = [*_words(settings["connect"]), "-ssl", "-unsafeSsl"]
    if backup != 8088 or (places and (local(places, backup) or "127.0.0.1") != "127.0.0.1"):
        settings["backup_address"] = f"{in_url(local(places, backup) or '127.0.0.1')}:{backup}"
    if http.get("auth-enabled") is True:
        settings["ask"] = False
    return settings


def _words(value: Value) -> list[str]:
    return value if isinstance(value, list) else [str(value)]


def _table(configuration: dict[str, Any], name: str) -> dict[str, Any]:
    table = configuration.get(name)
    return table if isinstance(table, dict) else {}


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}


def _port(address: object, default: int) -> int:
    match = re.fullmatch(r".*:([0-9]{1,5})", address) if isinstance(address, str) else None
    return int(match[1]) if match else default


_SECURITY = re.compile(r"security\d*\.fdb", re.IGNORECASE)


_LOGIN = (
    "write SYSDBA's password into /etc/stillframe/firebird.password (root's, mode 600), or say another place "
    "in password_file"
)


def firebird(sight: Sight, found: Found) -> None:
    """One policy for each database that a server has open."""
    seen: set[str] = set()
    for process in sight.processes:
        if process.name not in ("firebird", "fbserver", "fb_smp_server", "fb_inet_server"):
            continue
        if contained(process, "Firebird", found):
            continue
        opened = sorted(set(sight.open_files.get(process.pid, ())) - seen)
        files = [path for path in opened if _is_firebird(sight, path) and process.sees(path)]
        seen.update(files)
        places = sight.ports.get(process.pid, [])
        # Its events have a port of their own, the higher one as a rule.
        port = 3050 if not places or any(p == 3050 for _, p in places) else min(p for _, p in places)
        host = local(places, port) or "localhost"
        if not files:
            found.undecided.append(
                f"Firebird (process {process.pid}, port {port}): no database is open in it just now; "
                "for each: app init NAME --from firebird"
            )
        for path in files:
            settings: dict[str, Value] = {"file": path}
            if (host, port) not in (("127.0.0.1", 3050), ("localhost", 3050)):
                server = "localhost" if host == "127.0.0.1" else host
                settings["server"] = server if port == 3050 else f"{server}/{port}"
            if process.user not in ("", "firebird"):
                settings["os_user"] = process.user
            unsure = [_LOGIN]
            if ":" in host:
                unsure.append("the policy reaches no server by an address of IPv6: server is for you to say")
                settings.pop("server", None)
            name = named("firebird", os.path.basename(path).rpartition(".")[0] or os.path.basename(path))
            found.instances.append(made(process, name, f"Firebird, {path}", "firebird", settings, unsure))


def _is_firebird(sight: Sight, path: str) -> bool:
    """By its header page: its kind, and a version of the disk structure that is Firebird's own."""
    if _SECURITY.fullmatch(os.path.basename(path)) or path.endswith(".delta"):
        return False
    head = sight.read(path, 20).encode("utf-8", "surrogateescape")
    return len(head) == 20 and head[0] == 1 and head[19] & 0x80 == 0x80
