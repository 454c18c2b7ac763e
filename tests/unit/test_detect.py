"""What detect makes of what it sees; processes and images are made up here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.cli.detect import policy_text
from app.compiler import compile_paths
from app.detect import databases, detect, systems
from app.detect.finding import Found, Instance, give_names, named, writable
from app.detect.installed import installed
from app.detect.processes import Process, _container
from app.detect.reading import port_in, read_text
from app.detect.sight import Sight, _address, _packages, _tcp, _unix


def process(argv: list[str], pid: int = 10, exe: str = "", **more: object) -> Process:
    facts: dict[str, object] = {"parent": 1, "uid": os.geteuid(), "unit": "", "container": "", **more}
    return Process(pid=pid, argv=tuple(argv), exe=exe, **facts)  # type: ignore[arg-type]  # by name, above


def seen(*processes: Process, **more: object) -> Sight:
    return Sight(processes=list(processes), **more)  # type: ignore[arg-type]  # by name


ELASTICSEARCH = "org.elasticsearch.server/org.elasticsearch.bootstrap.Elasticsearch"


def compiled(tmp_path: Path, instances: list[Instance]) -> list[str]:
    give_names(instances)
    paths = []
    for instance in instances:
        paths.append(str(tmp_path / f"{instance.name}.toml"))
        Path(paths[-1]).write_text(policy_text(instance))
    return [a.name for a in compile_paths(paths).plan.applications]


def test_every_kind_of_server_gives_a_policy_that_compiles(tmp_path: Path) -> None:
    found = Found()
    sight = seen(
        process(["/usr/lib/postgresql/15/bin/postgres", "-D", "/srv/pg"], 11),
        process(["postgres: checkpointer"], 12, parent=11),
        process(["/usr/sbin/mariadbd", "--socket=/run/m.sock"], 13, "/usr/sbin/mariadbd"),
        process(["/usr/sbin/mysqld"], 1 << 30),
        process(["/usr/bin/redis-server 127.0.0.1:6380"], 15),
        process(["/usr/bin/valkey-server *:6379"], 16),
        process(["redis-server *:26379 [sentinel]"], 17),
        process(["/usr/bin/mongod", "--port", "27018"], 18),
        process(["ora_pmon_ORCL"], 19, "/u01/db/bin/oracle"),
        process(["hdbnameserver"], 20, "/usr/sap/HDB/HDB00/exe/hdbnameserver"),
        process(["/opt/mssql/bin/sqlservr"], 21, "/opt/mssql/bin/sqlservr"),
        process(["/opt/mssql/bin/sqlservr"], 22, "/opt/mssql/bin/sqlservr", parent=21),
        process(["/usr/irissys/bin/irisdb", "-s"], 23, "/usr/irissys/bin/irisdb"),
        process(["java", "-Xmx1g", "org.apache.cassandra.service.CassandraDaemon"], 24, "/usr/bin/java"),
        process(["java", "-m", ELASTICSEARCH], 25, "/j/java"),
        process(["java", "org.opensearch.bootstrap.OpenSearch"], 26, "/j/java"),
        process(["java", "com.neo4j.server.EntryPoint"], 27, "/j/java", unit="neo4j.service"),
        process(["/usr/bin/scylla"], 28, "/usr/bin/scylla"),
        process(["etcd", "--data-dir=/srv/etcd", "--listen-client-urls", "https://a:1"], 29, "/etcd"),
        ports={18: [("127.0.0.1", 27018)], 25: [("::", 9201), ("::", 9300)], 21: [("0.0.0.0", 1434)]},
    )  # fmt: skip
    for find in (
        databases.postgresql, databases.mysql, databases.redis, databases.mongodb, systems.oracle,
        systems.hana, systems.sql_server, systems.iris, systems.java, systems.scylla, systems.etcd,
    ):  # fmt: skip
        find(sight, found)
    policies = {i.policy for i in found.instances}
    assert policies >= {"postgresql", "mariadb", "mysql", "redis", "valkey", "mongodb", "oracle", "sap-hana"}
    assert policies >= {
        "sql-server",
        "iris",
        "cassandra",
        "elasticsearch",
        "opensearch",
        "neo4j",
        "scylla",
        "etcd",
    }
    assert len(found.instances) == 16
    by_policy = {i.policy: i.settings for i in found.instances}
    assert by_policy["redis"]["connect"] == ["-h", "127.0.0.1", "-p", "6380"]
    assert by_policy["oracle"]["oracle_home"] == "/u01/db"
    assert by_policy["mongodb"]["uri"] == "mongodb://127.0.0.1:27018/?directConnection=true"
    assert by_policy["elasticsearch"]["url"] == "http://127.0.0.1:9201"
    assert by_policy["sql-server"]["server"] == "tcp:localhost,1434"
    assert by_policy["etcd"]["data_dir"] == "/srv/etcd"
    assert len(compiled(tmp_path, found.instances)) == 16


def test_two_clusters_are_two_policies_by_their_own_word(tmp_path: Path) -> None:
    lines = ["11", "", "0", "5433", "/run/a", "localhost", ""]
    for pid, port, folder in ((11, "5433", "/run/a"), (12, "5434", "")):
        data = tmp_path / port
        data.mkdir()
        lines[0], lines[3], lines[4] = str(pid), port, folder
        (data / "postmaster.pid").write_text("\n".join(lines))
    found = Found()
    databases.postgresql(
        seen(
            *(
                process(["postgres", "-D", str(tmp_path / port)], pid)
                for pid, port in ((11, "5433"), (12, "5434"))
            )
        ),
        found,
    )
    assert [(i.settings["port"], i.settings["host"]) for i in found.instances] == [
        (5433, "/run/a"),
        (5434, "localhost"),
    ]
    assert len(set(compiled(tmp_path, found.instances))) == 2


def test_a_stale_pid_file_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text("99\n\n0\n9999\n/run/elsewhere\n\n")
    found = Found()
    databases.postgresql(
        seen(
            process(["postgres", "-D", str(tmp_path)], 11),
            sockets={11: ["/run/mine/.s.PGSQL.5499"]},
        ),
        found,
    )
    assert (found.instances[0].settings["port"], found.instances[0].settings["host"]) == (5499, "/run/mine")


def test_sockets_without_an_owner_stand_for_clusters_of_others(tmp_path: Path) -> None:
    found = Found()
    sight = seen(
        process(["/usr/bin/postgres"], 11, uid=4_000_000),
        unowned=["/run/postgresql/.s.PGSQL.5432", "/run/postgresql/.s.PGSQL.5433", "/run/other"],
    )
    databases.postgresql(sight, found)
    assert [i.settings.get("port", 5432) for i in found.instances] == [5432, 5433]
    assert all(i.unsure for i in found.instances)
    assert len(compiled(tmp_path, found.instances)) == 2


def test_which_of_the_two_mysqld_is(tmp_path: Path) -> None:
    for packages, policy in (({"mariadb-server-10.3": "1"}, "mariadb"), ({"mysql-server-8.0": "1"}, "mysql")):
        found = Found()
        databases.mysql(seen(process(["/usr/sbin/mysqld"], 1 << 30), packages=packages), found)
        assert [i.policy for i in found.instances] == [policy]


def test_databases_of_sqlite_are_those_with_a_wal(tmp_path: Path) -> None:
    good, empty = tmp_path / 'a "b"\'.db', tmp_path / "log"
    good.write_bytes(b"SQLite format 3\0" + bytes(100))
    empty.write_bytes(b"nothing of the kind")
    found = Found()
    files = {10: [f"{good}-wal", str(good), f"{empty}-wal", "/gone-wal"], 11: [f"{good}-wal"]}
    databases.sqlite(seen(process(["web"]), process(["job"], 11), open_files=files), found)
    (instance,) = found.instances
    assert instance.settings == {"databases": [str(good)]}
    assert compiled(tmp_path, [instance]) == ["sqlite"]


HOSTILE = ["/srv/a\nb", "/srv/\x1b[31m", "/srv/\udcff", "/srv/\u2028x"]


@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
def test_a_path_that_cannot_stand_in_a_policy_is_told_and_not_written(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not writable(path)
    assert not writable([path])
    monkeypatch.setattr(
        "app.detect.look", lambda root: seen(process(["mariadbd", f"--socket={path}"], exe="/x/mariadbd"))
    )
    monkeypatch.setattr("app.detect.installed", lambda sight, found: None)
    found = detect()
    assert found.instances == []
    assert "cannot stand in a policy" in found.undecided[0]


NO_PORTS = ["abc", "0", "-1", "65536", "\u0663", "9" * 5000, "1_0", ""]


@pytest.mark.parametrize("text", NO_PORTS, ids=lambda text: ascii(text[:8]))
def test_a_port_that_is_none_hides_no_server(text: str, tmp_path: Path) -> None:
    assert port_in(text) == 0
    (tmp_path / "postmaster.pid").write_text(f"11\n\n0\n{text}\n/run/a\n\n")
    found = Found()
    sight = seen(
        process(["postgres", "-D", str(tmp_path)], 11),
        process(["mongod", "--port", text], 12),
        process(["mariadbd", f"--port={text}"], 13),
        process([f"redis-server *:{text}"], 14),
        sockets={11: [f"/run/b/.s.PGSQL.{text}"]},
        unowned=[f"/run/c/.s.PGSQL.{text}"],
    )
    for find in (databases.postgresql, databases.mongodb, databases.mysql, databases.redis):
        find(sight, found)
    assert [(i.policy, i.name) for i in found.instances] == [
        ("postgresql", "postgresql-5432"),
        ("mongodb", "mongodb"),
        ("mariadb", "mariadb"),
        ("redis", "redis"),
    ]


def test_a_finder_that_fails_hides_no_other_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def oracle(sight: Sight, found: Found) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("app.detect._FINDERS", (oracle, databases.redis))
    monkeypatch.setattr("app.detect.look", lambda root: seen(process(["redis-server *:6379"])))
    monkeypatch.setattr("app.detect.installed", lambda sight, found: None)
    found = detect()
    assert [i.policy for i in found.instances] == ["redis"]
    (told,) = found.undecided
    assert told.startswith("oracle: ")
    assert "RecursionError: too deep" in told


@pytest.mark.parametrize(
    "path", ['/srv/it\'s "here"', "/srv/{data}", "/srv/\\x", "/srv/[[quiesce]]", "/srv/#"]
)
def test_quotes_and_braces_stay_what_they_are(path: str, tmp_path: Path) -> None:
    found = Found()
    databases.mysql(seen(process(["mariadbd", f"--socket={path}"], exe="/x/mariadbd")), found)
    give_names(found.instances)
    (tmp_path / "p.toml").write_text(policy_text(found.instances[0]))
    application = compile_paths([str(tmp_path / "p.toml")]).plan.applications[0]
    assert f"--socket={path}" in application.mechanisms["session"]["argv"]


def test_a_comment_stays_a_comment() -> None:
    text = policy_text(Instance("a", "x\n[settings]\nport = 1", "postgresql", {}, ["e\rf"], ["u\x85v"]))
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "version = 1",
        'name = "a"',
        'extends = "postgresql"',
    ]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("PG", 15, "main"), "pg-15-main"),
        (("..//",), "server"),
        (("é" * 99,), "server"),
        (("a" * 99,), "a" * 48),
    ],
)
def test_names_are_made_of_whatever_there_is(words: tuple[object, ...], name: str) -> None:
    assert named(*words) == name


def test_what_runs_in_a_container_is_told() -> None:
    found = Found()
    databases.redis(seen(process(["redis-server *:6379"], container="docker 12ab")), found)
    assert found.instances == []
    assert "docker 12ab" in found.undecided[0]
    assert _container("0::/system.slice/docker-0123abc.scope\n") == "docker 0123abc"


# --- an image ----------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """As debootstrap leaves it, with a few servers."""
    root = tmp_path / "image"
    files = {
        "var/lib/dpkg/status": "Package: redis-server\nStatus: install ok installed\nVersion: 5:7.0.15\n\n"
        "Package: mariadb-server\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: postgresql-15\nStatus: install ok installed\nVersion: 15.6\nDescription: x\n Status: no\n",
        "etc/postgresql/15/main/postgresql.conf": "port = 5433\n#port = 1\n"
        "unix_socket_directories = '/run/a, /b'\n",
        "etc/postgresql/15/other/postgresql.conf": "port=5434 # comment\n",
        "lib/systemd/system/etcd.service": "[Unit]\n",
        "lib/systemd/system/redis-server.service": "[Unit]\n",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_an_image_is_read_by_its_files_alone(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.detect.sight.processes", lambda: pytest.fail("looked at this machine"))
    found = detect(str(image))
    assert sorted((i.policy, i.name) for i in found.instances) == [
        ("etcd", "etcd"),
        ("postgresql", "postgresql-15-main"),
        ("postgresql", "postgresql-15-other"),
        ("redis", "redis"),
    ]
    settings = {i.name: i.settings for i in found.instances}
    assert settings["postgresql-15-main"] == {"host": "/run/a", "port": 5433}
    assert settings["postgresql-15-other"] == {"port": 5434}
    assert not any(i.running for i in found.instances)
    assert len(compiled(tmp_path, found.instances)) == 4


def test_an_image_with_loops_and_devices_ends(image: Path) -> None:
    status = image / "var/lib/dpkg/status"
    status.unlink()
    status.symlink_to("/dev/zero")
    (image / "etc/postgresql/15/main/postgresql.conf").unlink()
    os.mkfifo(image / "etc/postgresql/15/main/postgresql.conf")
    assert [i.name for i in detect(str(image)).instances if i.policy == "postgresql"] == [
        "postgresql-15-other"
    ]


def test_a_link_does_not_lead_out_of_an_image(tmp_path: Path, image: Path) -> None:
    other = tmp_path / "other"
    (other / "var").mkdir(parents=True)
    (other / "lib").symlink_to(image / "lib")
    (other / "etc").symlink_to(image / "etc")
    (other / "var/lib").symlink_to(image / "var/lib")
    assert detect(str(other)).instances == []
    (other / "usr").symlink_to("../image/lib")
    (image / "usr").mkdir()
    (image / "usr/lib").symlink_to("../lib")
    (tmp_path / "link").symlink_to(image)
    assert len(detect(str(tmp_path / "link")).instances) == 4


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/", "/nowhere", "/a\0b"])
def test_only_plain_files_are_read(path: str) -> None:
    assert read_text(path) == ""


def test_an_empty_image_has_nothing(tmp_path: Path) -> None:
    found = detect(str(tmp_path))
    assert (found.instances, found.undecided) == ([], [])


def test_installed_servers_of_a_machine_are_no_running_ones(image: Path) -> None:
    sight = Sight(root=str(image), packages={"mariadb-server": "1", "mysql-common": "1"})
    found = Found()
    installed(sight, found)
    assert {i.policy for i in found.instances} == {"postgresql", "mariadb", "redis", "etcd"}
    assert not any(i.running for i in found.instances)


# --- tables of the kernel ------------------------------------------------------------------------------


def test_tables_of_the_kernel(tmp_path: Path) -> None:
    tcp = tmp_path / "tcp"
    tcp.write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   999        0 12345 1\n"
        "   1: 0100007F:1539 0100007F:9999 01 00000000:00000000 00:00000000 00000000   999        0 12346 1\n"
        "torn"
    )
    assert _tcp(str(tcp)) == {"12345": ("127.0.0.1", 5432)}
    assert _address("00000000000000000000000001000000") == "::1"
    unix = tmp_path / "unix"
    unix.write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 111 /run/a b\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 112 /run/c\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 113 @abstract\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 116 client:1\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 114\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 115 /run/\n"
        "a new line b c d e /run/f\n"
    )
    told = {"111": "/run/a b", "113": "@abstract", "115": "/run/", "116": "client:1"}
    assert _unix(str(unix)) == told, "a path may have a line of its own"
    assert dict(_packages("Package: a\nStatus: hold ok installed\nVersion: 1\n\nnonsense")) == {"a": "1"}
