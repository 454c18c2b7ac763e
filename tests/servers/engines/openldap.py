"""OpenLDAP as the distribution has it: one mdb database.

A commit is one entry, which also says what it makes of the two balances. (Several changes in one LDAP
transaction, RFC 5805, would come nearer to the other servers' commits: slapd 2.5.13 ends by itself when
several clients do so at the same time.)
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.daemon import private_folder, running, wait_for
from tests.servers.engine import Commit, Contents, Engine, Server
from tests.servers.transfers import BODY, START, Transfer, accounts, broken

USER = "openldap"
SUFFIX = "dc=example"
LEDGER = f"ou=ledger,{SUFFIX}"
DATABASE = "olcDatabase={1}mdb,cn=config"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

REFUSED = 53
"""LDAP result unwillingToPerform: the database is read-only."""

_ROOT = 'by dn.base="gidNumber=0+uidNumber=0,cn=peercred,cn=external,cn=auth" manage'
_CONFIGURATION = """
include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_mdb
sizelimit unlimited
database config
access to * {root}
database mdb
suffix "{suffix}"
directory {data}
maxsize 1073741824
access to * {root} by * read
"""


class Refused(Exception):
    """What the client said, and its exit status."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


def speak(uri: str, program: str, *arguments: str, text: str = "") -> str:
    """What a client of OpenLDAP says as root. Raises Refused."""
    argv = [program, "-Q", "-Y", "EXTERNAL", "-H", uri, *arguments]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, env={"PATH": PATH})
    if done.returncode:
        raise Refused(done.returncode, done.stderr)
    return done.stdout


def _entry(dn: str, kind: str, *lines: str) -> str:
    return "\n".join([f"dn: {dn}", "changetype: add", f"objectClass: {kind}", *lines, "", ""])


class Directory(Server):
    """One running slapd."""

    def __init__(self, data: Path, uri: str, configuration: Path, mode: str) -> None:
        self.data = data
        self.uri = uri
        self.configuration = configuration
        self._mode = mode

    def settings(self) -> dict[str, Any]:
        return {"suffix": SUFFIX, "database": DATABASE, "uri": self.uri, "mode": self._mode}

    def target(self) -> dict[str, Any]:
        return {"uri": self.uri}

    def contents(self) -> Contents:
        found = self.ledger()
        return Contents(set(found), broken(set(found), balances(found)))

    def check(self) -> None:
        argv = ["slapcat", "-F", str(self.configuration), "-b", SUFFIX]
        done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": PATH})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\nentryUUID:") == len(self.ledger()) + 2

    def read_only(self) -> str:
        """TRUE or FALSE, or "" where nothing is written of it."""
        said = speak(self.uri, "ldapsearch", "-LLL", "-s", "base", "-b", DATABASE, "olcReadOnly")
        assert said.startswith(f"dn: {DATABASE}\n")
        return said.strip().partition("\nolcReadOnly: ")[2]

    def set_read_only(self, value: str) -> None:
        """TRUE or FALSE, or "" to take away what is written."""
        values = f"olcReadOnly: {value}\n" if value else ""
        change = f"dn: {DATABASE}\nchangetype: modify\nreplace: olcReadOnly\n{values}"
        if value != self.read_only():  # what is not there cannot be taken away
            speak(self.uri, "ldapmodify", text=change)

    def break_hold(self) -> str:
        assert self.read_only() == "TRUE"
        self.set_read_only("FALSE")
        return "olcReadOnly"

    def ledger(self) -> dict[int, dict[int, int]]:
        """By the number of each commit, what it makes of balances."""
        arguments = ["-LLL", "-s", "one", "-b", LEDGER, "-o", "ldif-wrap=no", "cn", "description"]
        found: dict[int, dict[int, int]] = {}
        for entry in speak(self.uri, "ldapsearch", *arguments).split("\n\n"):
            if number := re.search("^cn: (.+)$", entry, re.MULTILINE):
                pairs = re.findall("^description: ([0-9]+)=(-?[0-9]+)$", entry, re.MULTILINE)
                found[int(number.group(1))] = {int(name): int(value) for name, value in pairs}
        return found


def balances(ledger: dict[int, dict[int, int]]) -> dict[int, int]:
    """What every account has: the last commit that touched it says so."""
    out = dict.fromkeys(accounts(), START)
    for number in sorted(ledger):
        out.update(ledger[number])
    return out


class OpenLDAP(Engine):
    """Nothing stands still, and nothing is claimed for it."""

    policy = "openldap"
    level: ClassVar[str] = "filesystem"
    clients = ("holder", "keeper")
    unbreakable = "nothing of the server is held"
    blocks = False
    mode = "online"
    name = "openldap-online"
    main = True

    def missing(self) -> str:
        lacking = [n for n in ("slapd", "ldapmodify") if shutil.which(n, path=PATH) is None]
        if not lacking and not Path("/usr/lib/ldap/back_mdb.so").exists():
            return "needs Debian's slapd, with back_mdb as a module"
        return f"needs {' and '.join(lacking)}" if lacking else ""

    @contextlib.contextmanager
    def server(self, data: Path, make: bool = True) -> Iterator[Server]:
        with private_folder("slapd", USER) as folder:
            if make:
                data.mkdir(mode=0o700)
                shutil.chown(data, USER, USER)
            configuration = folder / "slapd.d"
            configuration.mkdir()
            shutil.chown(configuration, USER, USER)
            (folder / "slapd.conf").write_text(_CONFIGURATION.format(root=_ROOT, suffix=SUFFIX, data=data))
            # It complains of a database that is not there yet, after it has written the configuration.
            argv = ["slaptest", "-f", str(folder / "slapd.conf"), "-F", str(configuration)]
            subprocess.run(argv, capture_output=True, env={"PATH": PATH}, user=USER, group=USER)
            uri = f"ldapi://{urllib.parse.quote(str(folder / 'socket'), safe='')}"
            argv = ["slapd", "-F", str(configuration), "-h", uri, "-d", "none"]
            with running(argv, USER, folder / "log") as process:
                server = Directory(data, uri, configuration, self.mode)
                wait_for(server.read_only, process, folder / "log", (Refused,))
                if make:
                    # As Debian's package and most others make it: slaptest alone writes defaults out.
                    assert server.read_only() == "FALSE"
                    server.set_read_only("")
                    top = _entry(SUFFIX, "organization", "objectClass: dcObject", "o: x", "dc: example")
                    speak(uri, "ldapmodify", text=top + _entry(LEDGER, "organizationalUnit", "ou: ledger"))
                yield server

    def commits(self, target: dict[str, Any]) -> Iterator[Commit]:
        uri = target["uri"]
        # No other writer has these accounts; a writer of a later load goes on from what is there.
        now = balances(Directory(Path(), uri, Path(), "").ledger())

        def commit(number: int) -> None:
            transfer = Transfer.of(number)
            now[transfer.source] -= transfer.amount
            now[transfer.target] += transfer.amount
            values = [BODY, *(f"{account}={now[account]}" for account in (transfer.source, transfer.target))]
            text = _entry(
                f"cn={number},{LEDGER}", "applicationProcess", *(f"description: {each}" for each in values)
            )
            while True:
                try:
                    speak(uri, "ldapmodify", text=text)
                    return
                except Refused as error:
                    if error.status != REFUSED:
                        raise
                time.sleep(0.005)

        yield commit


class ReadOnly(OpenLDAP):
    """Writers are refused, and try again."""

    level: ClassVar[str] = "application"
    unbreakable = ""
    blocks = True
    mode = "read-only"
    name = "openldap-read-only"
    main = False


ENGINES = (OpenLDAP(), ReadOnly())
