"""What each policy is tried with: its settings, what shows its hold, and what must make it fail.

Here the databases of SQL; the others in ``stores``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.standins.case import Case, Wrong
from tests.standins.ground import USER, Standin
from tests.standins.stores import STORES


def _home(at: Standin) -> Path:
    """ORACLE_HOME of the stand-in."""
    home = at.stage.folder / "oracle"
    (home / "bin").mkdir(parents=True, exist_ok=True)
    program = home / "bin" / "sqlplus"
    if not program.exists():
        at.program("sqlplus").rename(program)
    return home


def _oracle(mode: str) -> Callable[[Standin], str]:
    def text(at: Standin) -> str:
        return f"""
            extends = "oracle"
            [settings]
            oracle_home = "{_home(at)}"
            oracle_sid = "ORCL"
            os_user = "{USER}"
            mode = "{mode}"
            """

    return text


ORACLE = (
    Case(
        "oracle backup",
        "oracle",
        _oracle("backup"),
        state="active",
        idle=0,
        held=2,
        quiesces="BEGIN BACKUP",
        undone="END BACKUP",
        saved=("in_backup", "sid", "serial"),
        wrong=(
            Wrong("no archivelog", "ARCHIVELOG", before=lambda at: at.put("log_mode", "NOARCHIVELOG")),
            Wrong("somebody else's", "'active 2'", before=lambda at: at.call("_begin"), left=2),
            Wrong("ended by another", "does not match", during=lambda at: at.call("end_quietly")),
            Wrong("ended and begun again by another", "files, SCN", during=lambda at: at.call("begin_again")),
            Wrong("restarted", "ORA-03113", during=lambda at: at.call("restart")),
            Wrong("down", "ORA-01034", before=lambda at: at.put("up", False)),
            Wrong("not all files", "missing 1", before=lambda at: at.rig("missing", answer="missing 1")),
            Wrong(
                "no file at all",
                "0 files",
                before=lambda at: at.rig("files, SCN", answer="0 files, SCN  to "),
            ),
            Wrong("noise", "does not match", before=lambda at: at.rig("log_mode", answer="")),
        ),
    ),
    Case(
        "oracle 11.2",
        "oracle",
        _oracle("backup"),
        state="active",
        idle=0,
        held=4,
        quiesces="BEGIN BACKUP",
        undone="END BACKUP",
        more={"version": "11.2.0.4.0"},
    ),
    Case(
        "oracle snapshot",
        "oracle",
        _oracle("snapshot"),
        state="active",
        idle=0,
        held=0,
        saved=("time_before", "scn_before", "time_after", "scn_after"),
        wrong=(
            Wrong("no archivelog", "ARCHIVELOG", before=lambda at: at.put("log_mode", "NOARCHIVELOG")),
            Wrong(
                "too old",
                "no recipe for server version 11",
                before=lambda at: at.put("version", "11.2.0.4.0"),
            ),
            Wrong("restarted", "ORA-03113", during=lambda at: at.call("restart")),
        ),
    ),
)


def _hana(at: Standin) -> str:
    return f"""
        extends = "sap-hana"
        [settings]
        key = "BACKUPKEY"
        os_user = "{USER}"
        hdbsql = "{at.program("hdbsql")}"
        """


HANA = (
    Case(
        "sap-hana",
        "hana",
        _hana,
        state="prepared",
        idle=0,
        held=1,
        quiesces="CREATE SNAPSHOT",
        undone="CLOSE SNAPSHOT",
        session=False,
        saved=("backup_id",),
        confirmed=True,
        wrong=(
            Wrong("somebody else's", "does not match", before=lambda at: at.call("others"), left=1),
            Wrong(
                "a service restarted", "not valid any more", during=lambda at: at.call("service_restarted")
            ),
            Wrong("closed by another", "before", during=lambda at: at.call("close_quietly")),
            Wrong("down", "Connection failed", before=lambda at: at.put("up", False)),
            Wrong(
                "no right",
                "258",
                before=lambda at: at.rig("CREATE", answer="* 258: insufficient privilege", status=3),
            ),
            Wrong("no id", "does not match", before=lambda at: at.rig("BACKUP_ID FROM", answer="")),
        ),
    ),
)


def _db2(at: Standin) -> str:
    folder = at.stage.folder / "sqllib"
    folder.mkdir(exist_ok=True)
    for name in ("db2", "db2pd"):
        if not (folder / name).exists():
            at.program(name).rename(folder / name)
    (folder / "db2profile").write_text(f"PATH=$PATH:{folder}\n")
    return f"""
        extends = "db2"
        [settings]
        database = "SAMPLE"
        os_user = "{USER}"
        profile = "{folder}/db2profile"
        """


DB2 = (
    Case(
        "db2",
        "db2",
        _db2,
        state="suspended",
        idle="NO",
        held="YES",
        still=True,
        quiesces="write suspend",
        undone="write resume",
        wrong=(
            Wrong("somebody else's", "YES", before=lambda at: at.call("suspend_quietly"), left="YES"),
            Wrong("no connection", "SQL1024N", before=lambda at: at.rig("connect", answer="Database server")),
            Wrong("resumed by another", "does not match", during=lambda at: at.call("resume_quietly")),
            Wrong("crashed", "does not match", during=lambda at: at.call("crash")),
            Wrong("down", "answered ''", before=lambda at: at.put("up", False)),
            Wrong("no word of db2pd", "answered ''", before=lambda at: at.rig("db2pd", answer="")),
        ),
    ),
    Case(
        "db2 not activated",
        "db2",
        _db2,
        state="suspended",
        idle="NO",
        held="YES",
        still=True,
        quiesces="write suspend",
        undone="write resume",
        wrong=(
            Wrong(
                "no bufferpools flushed",
                "SQL0552N",
                before=lambda at: at.rig("flush", answer="SQL0552N  no privilege", status=4),
            ),
        ),
        more={"activated": False},
    ),
)


def _iris(at: Standin) -> str:
    return f"""
        extends = "iris"
        [settings]
        os_user = "{USER}"
        iris = "{at.program("iris")}"
        """


IRIS = (
    Case(
        "iris",
        "iris",
        _iris,
        state="suspended",
        idle=False,
        held=True,
        still=True,
        undone="ExternalThaw",
        session=False,
        wrong=(
            Wrong("somebody else's", "status 5", before=lambda at: at.call("freeze_quietly"), left=True),
            Wrong("freeze refused", "status 3", before=lambda at: at.put("refuses", True)),
            Wrong("dead-man timer", "status 3", during=lambda at: at.call("expire")),
            Wrong("thawed by another", "status 3", during=lambda at: at.call("thaw_quietly")),
            Wrong("restarted", "status 3", during=lambda at: at.call("restart")),
            Wrong("down", "status 1", before=lambda at: at.put("up", False)),
        ),
    ),
)


def _sql_server(mode: str) -> Callable[[Standin], str]:
    def text(at: Standin) -> str:
        login = at.stage.folder / "login"
        login.write_text("SQLCMDUSER=backup\nSQLCMDPASSWORD=s3cret\n")
        login.chmod(0o600)
        return f"""
            extends = "sql-server"
            [settings]
            os_user = "{USER}"
            sqlcmd = "{at.program("sqlcmd")}"
            login = "{login}"
            mode = "{mode}"
            """

    return text


SQL_SERVER = (
    Case(
        "sql-server",
        "sqlserver",
        _sql_server("resume"),
        state="suspended",
        idle=[],
        held=["orders", "sales"],
        still=True,
        client="client sqlcmd",
        quiesces="BACKUP = ON",
        undone="^(?!DECLARE).*BACKUP = OFF",
        saved=("suspended",),
        wrong=(
            Wrong("somebody else's", "suspended 1", before=lambda at: at.call("others"), left=["sales"]),
            Wrong("one lost", "before", during=lambda at: at.call("off_quietly")),
            Wrong("connected again", "session was", during=lambda at: at.call("connect_again")),
            Wrong("restarted", "Sqlcmd: Error", during=lambda at: at.call("restart")),
            Wrong("down", "Sqlcmd: Error", before=lambda at: at.put("up", False)),
            Wrong("older", "no recipe for server version 15", before=lambda at: at.put("major", "15")),
            Wrong(
                "no right", "Msg 229", before=lambda at: at.rig("= ON", answer="Msg 229, Level 14, State 1")
            ),
        ),
    ),
    Case(
        "sql-server before CU16",
        "sqlserver",
        _sql_server("resume"),
        state="suspended",
        idle=[],
        held=["orders", "sales"],
        still=True,
        client="client sqlcmd",
        quiesces="BACKUP = ON",
        undone="^(?!DECLARE).*BACKUP = OFF",
        wrong=(Wrong("somebody else's", "suspended 1", before=lambda at: at.call("others"), left=["sales"]),),
        more={"fixed": False},
    ),
    Case(
        "sql-server metadata",
        "sqlserver",
        _sql_server("metadata"),
        state="suspended",
        idle=[],
        held=["orders", "sales"],
        still=True,
        client="client sqlcmd",
        undone="^(?!DECLARE).*(BACKUP SERVER|BACKUP = OFF)",
        confirmed=True,
        wrong=(
            Wrong(
                "disk full",
                "Msg 3013",
                before=lambda at: at.rig("BACKUP SERVER", answer="Msg 3013, Level 16"),
            ),
        ),
    ),
)


CASES = (*ORACLE, *HANA, *DB2, *IRIS, *SQL_SERVER, *STORES)
