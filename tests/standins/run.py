"""Starts a stand-in.

``run.py serve PRODUCT SOCKET DATA NOTES`` or ``run.py client PROGRAM SOCKET ARGUMENT...``
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PROGRAMS = {
    "sqlplus": "oracle",
    "hdbsql": "hana",
    "db2": "db2",
    "db2pd": "db2",
    "iris": "iris",
    "sqlcmd": "sqlserver",
    "nodetool": "cassandra",
    "mongosh": "mongodb",
    "mongo": "mongodb",
    "curl": "elastic",
}


def main() -> None:
    """By the first word."""
    from tests.standins.product import Link, Server

    what, name, address, *rest = sys.argv[1:]
    if what == "serve":
        module = importlib.import_module(f"tests.standins.{name}")
        Server(module.product(), *rest).serve(address)
    else:
        module = importlib.import_module(f"tests.standins.{PROGRAMS[name]}")
        sys.exit(getattr(module, name)(Link(address), rest))


if __name__ == "__main__":
    main()
