"""OpenLDAP by a DN and its password; by SASL EXTERNAL as root it wants none, and is tried elsewhere."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tests.integration.secrets.login import Login, Wanted
from tests.servers.engines.openldap import Directory, OpenLDAP, ReadOnly, Refused, speak

ADMIN = "cn=config"
_CONFIG = "olcDatabase={0}config,cn=config"


class Bind(Login):
    """In one of the policy's modes. Root, who could have come by EXTERNAL, is let in no more."""

    client: ClassVar[str] = "-Dcn=config"
    wrong: ClassVar[str] = r"Invalid credentials \(49\)"
    session: ClassVar[bool] = False

    def __init__(self, engine: OpenLDAP) -> None:
        self.name = engine.name
        self.level = engine.level  # type: ignore[misc]
        self.short = engine.mode == "read-only"  # type: ignore[misc]
        self._engine = engine

    def missing(self) -> str:
        return self._engine.missing()

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        with self._engine.server(folder / "data") as server:
            assert isinstance(server, Directory)
            set_password(server, canary)
            closed = f"dn: {_CONFIG}\nchangetype: modify\nreplace: olcAccess\nolcAccess: to * by * none\n"
            speak(server.uri, "ldapmodify", text=closed)
            with contextlib.suppress(Refused):
                raise AssertionError(f"root is let in without a password: {server.read_only()!r}")
            yield Wanted(policy(server), (server.configuration.with_name("log"), server.data))


def policy(server: Directory) -> str:
    """What an operator's says of it."""
    lines = "\n".join(f'{key} = "{value}"' for key, value in server.settings().items())
    return f"""
extends = "openldap"
[settings]
{lines}
bind = ["-x", "-D{ADMIN}", "-y", "{{bind_password}}"]
[command]
files = {{ bind_password = "{{password}}" }}
"""


def set_password(server: Directory, password: str) -> None:
    """Give cn=config's own DN that password, as root, who comes by EXTERNAL."""
    coded = base64.b64encode(password.encode()).decode()
    change = f"dn: {_CONFIG}\nchangetype: modify\nreplace: olcRootDN\nolcRootDN: {ADMIN}\n-\n"
    change += f"replace: olcRootPW\nolcRootPW:: {coded}\n"
    speak(server.uri, "ldapmodify", text=change)


LOGINS = (Bind(ReadOnly()), Bind(OpenLDAP()))
