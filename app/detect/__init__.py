"""Finding the servers of a machine or an image, for policies that nobody need write. Reads only."""

from __future__ import annotations

from app.detect import databases, systems
from app.detect.finding import Found, Instance, give_names, writable
from app.detect.installed import installed
from app.detect.sight import look

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
    systems.services,
)

MOST_INSTANCES = 500
"""More than that nobody runs on one VM: somebody makes them up."""


def detect(root: str = "") -> Found:
    """What runs and what is installed on this machine, or what is installed in the image below ``root``."""
    sight = look(root)
    found = Found(blind=list(sight.blind))
    for find in _FINDERS if not sight.root else ():
        find(sight, found)
    installed(sight, found)
    if len(found.instances) > MOST_INSTANCES:
        found.undecided.append(f"more than {MOST_INSTANCES} servers: the rest is left out")
        del found.instances[MOST_INSTANCES:]
    for instance in [i for i in found.instances if not all(map(writable, i.settings.values()))]:
        found.instances.remove(instance)
        found.undecided.append(f"{instance.what}: a path or a name of it cannot stand in a policy")
    give_names(found.instances)
    return found
