"""What was found, and what could not be decided."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from app.detect.processes import Process
from app.detect.sight import Sight
from app.host import trust

Value = str | int | list[str]

LONGEST = 200
"""Characters of what names a server for people."""


@dataclass(slots=True)
class Instance:
    """One server, or one installed and not running.

    ``what`` names it for people; ``policy`` is the shipped policy that serves it ("" if none does) and
    ``settings`` what differs from that policy's defaults; ``unsure`` are sentences: what was guessed, and
    what only the operator can know. ``name`` becomes the policy's; ``environment`` is what its clients
    need; ``pid`` the process, 0 where none was seen.
    """

    name: str
    what: str
    policy: str
    settings: dict[str, Value] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    running: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    pid: int = 0


@dataclass(slots=True)
class Found:
    """All that was found.

    ``undecided``: sentences on what has no policy here; ``blind``: what was not seen.
    """

    instances: list[Instance] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)


def made(
    process: Process, name: str, what: str, policy: str, settings: dict[str, Value], unsure: list[str]
) -> Instance:
    """A server that runs, with what its process is."""
    warning = process.stranger()
    sentences = [warning, *unsure] if warning else list(unsure)
    evidence = [f"process {process.pid}"]
    short = what if len(what) <= LONGEST else f"{what[:LONGEST]}..."
    return Instance(name, short, policy, settings, evidence, sentences, pid=process.pid)


def local(places: list[tuple[str, int]], port: int, both: bool = True) -> str:
    """The address under which somebody on this machine reaches a port; "" if nobody listens on it.

    ``both``: a server on ``::`` also takes connections to 127.0.0.1, as most do.
    """
    hosts = {host for host, number in places if number == port}
    if hosts & {"0.0.0.0", "127.0.0.1"} or (both and "::" in hosts):  # noqa: S104 - compared, never bound
        return "127.0.0.1"
    if hosts & {"::", "::1"}:
        return "::1"
    return min(hosts, default="")


def in_url(host: str) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def full_path(process: Process, path: str) -> str:
    """A path that a process was given, from / on and without detours; "" if that cannot be told."""
    place = os.path.join(process.folder(), path)
    return "/" + os.path.normpath(place).lstrip("/") if path and place.startswith("/") else ""


_CLIENTS = {
    "postgresql": ("psql", "psql", ""),
    "mariadb": ("client", "mariadb", ""),
    "mysql": ("client", "mysql", ""),
    "redis": ("programs", "redis", "-cli"),
    "valkey": ("programs", "valkey", "-cli"),
    "mongodb": ("client", "mongosh", ""),
    "etcd": ("etcdctl", "etcdctl", ""),
    "rabbitmq": ("rabbitmqctl", "rabbitmqctl", ""),
    "firebird": ("isql", "isql-fb", ""),
}
"""By policy the setting that names the client, its default, and what the policy puts behind that."""


def find_client(sight: Sight, instance: Instance) -> None:
    """Where the client is not among the programs that policies look through, take the one beside the server.

    Only if root alone can have written it; otherwise the operator is told.
    """
    setting, name, behind = _CLIENTS.get(instance.policy, ("", "", ""))
    if not setting or setting in instance.settings or sight.has_program(name + behind):
        return
    server = next((p.exe for p in sight.processes if p.pid == instance.pid), "")
    beside = f"{os.path.dirname(server)}/{name}" if server.startswith("/") else ""
    if beside and not trust.findings(beside + behind, program=True):
        instance.settings[setting] = beside
    else:
        instance.unsure.append(
            f"the client {name}{behind} was not found: install it, or name it in {setting}"
        )


def out_of_reach(sight: Sight, instance: Instance) -> str:
    """Why a server that was found cannot be reached as it was found; "" if nothing is known of that."""
    if instance.pid in sight.apart:
        return "its ports are in a network of its own (PrivateNetwork): no client here reaches them"
    return ""


_LISTEN = frozenset(
    {
        "postgresql",
        "mariadb",
        "mysql",
        "redis",
        "valkey",
        "mongodb",
        "etcd",
        "rabbitmq",
        "influxdb",
        "openldap",
    }
    | {"firebird", "elasticsearch", "opensearch", "cassandra", "scylla", "neo4j", "sql-server"}
)
"""Servers whose own process listens."""


def is_silent(sight: Sight, instance: Instance) -> bool:
    """Whether all sockets can be seen, and a process that must listen has none.

    It is a tool of that name then (``mysqld --initialize``, ``influxd backup``), or somebody's joke.
    """
    if not sight.sees_all or not instance.pid or instance.policy not in _LISTEN:
        return False
    children = {p.pid for p in sight.processes if p.parent == instance.pid}
    return not any(pid in sight.ports or pid in sight.sockets for pid in (instance.pid, *children))


def named(*words: object) -> str:
    """A policy's name out of words that somebody else chose."""
    text = re.sub(r"[^a-z0-9]+", "-", "-".join(str(w) for w in words).lower()).strip("-")
    return text[:48].strip("-") or "server"


def give_names(instances: list[Instance]) -> None:
    """Make every name the only one of its kind."""
    taken: set[str] = set()
    for instance in instances:
        name, number = instance.name, 2
        while name in taken:
            name, number = f"{instance.name}-{number}", number + 1
        instance.name = name
        taken.add(name)


def writable(value: Value) -> bool:
    """Whether a value can stand in a policy: one line of plain text."""
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(p, int) or (p.isprintable() and _utf8(p)) for p in parts)


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def contained(process: Process, title: str, found: Found) -> bool:
    """Whether a server runs in a container; then it is told how its policy reaches it."""
    if not process.container:
        return False
    engine, _, name = process.container.partition(" ")
    program = {"docker": "docker", "libpod": "podman"}.get(engine, "")
    words = f'through = ["{program}", "exec", "--interactive", "{name[:12]}"]'
    way = f": extend its policy, and say {words} in [session] (better the container's own name)"
    found.undecided.append(
        f"{title} (process {process.pid}) runs in {f'{engine} {name[:12]}' if program else process.container}"
        + (way if program and name else ": its client must run in there, too")
    )
    return True
