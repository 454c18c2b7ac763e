"""Finding the servers of a machine or an image, for policies that nobody need write. Reads only."""

from __future__ import annotations

from collections.abc import Callable

from app.detect import daemons, databases, systems
from app.detect.finding import Found, Instance, find_client, give_names, is_silent, out_of_reach, writable
from app.detect.installed import installed
from app.detect.sight import Sight, look

__all__ = ["Found", "Instance", "detect"]

_FINDERS = (
    databases.postgresql,
    databases.mysql,
    databases.redis,
    databases.mongodb,
    databases.sqlite,
    systems.oracle,
    systems.hana,
    systems.db2,
    systems.iris,
    systems.sql_server,
    systems.java,
    systems.scylla,
    systems.etcd,
    daemons.rabbitmq,
    daemons.openldap,
    daemons.influxdb,
    daemons.firebird,
    systems.services,
)

Finder = Callable[[Sight, Found], None]

MOST_INSTANCES = 500
"""More than that nobody runs on one VM: somebody makes them up."""


def detect(root: str = "") -> Found:
    """What runs and what is installed on this machine, or what is installed in the image below ``root``."""
    sight = look(root)
    found = Found(blind=list(sight.blind))
    for find in _FINDERS if not sight.root else ():
        _guarded(find, sight, found)
    for instance in [i for i in found.instances if is_silent(sight, i)]:
        found.instances.remove(instance)
        words = "listens nowhere: it has not started yet, or is a tool of that name and no server"
        found.undecided.append(f"{instance.what} (process {instance.pid}) {words}")
    for instance in found.instances:
        if problem := out_of_reach(sight, instance):
            instance.unsure.append(problem)
        find_client(sight, instance)
    _guarded(installed, sight, found)
    if len(found.instances) > MOST_INSTANCES:
        found.undecided.append(f"more than {MOST_INSTANCES} servers: the rest is left out")
        del found.instances[MOST_INSTANCES:]
    for instance in [i for i in found.instances if not all(map(writable, i.settings.values()))]:
        found.instances.remove(instance)
        found.undecided.append(f"{instance.what}: a path or a name of it cannot stand in a policy")
    give_names(found.instances)
    return found


def _guarded(find: Finder, sight: Sight, found: Found) -> None:
    """Run one finder: what somebody's process says of itself must not keep the others from being found."""
    try:
        find(sight, found)
    except Exception as error:  # noqa: BLE001 - our bug, whatever it is: told, and the others go on
        what = f"{type(error).__name__}: {str(error)[:200]}"
        found.undecided.append(f"{find.__name__}: the look for it ended early, by an error of ours ({what})")
