"""What detect makes of options, files and addresses that servers were given; processes are made up here."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from app.detect import daemons, databases, detect, systems
from app.detect.finding import Found, find_client, is_silent, local
from app.detect.processes import _container
from tests.unit.test_detect import compiled, process, seen

NONE = 1 << 30
"""A number that no process has: nothing is read of one that happens to run here."""


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ("0::/system.slice/docker-0123abc.scope", "docker 0123abc"),
        ("12:pids:/docker/0123abc\n0::/", "docker 0123abc"),
        ("0::/machine.slice/libpod-0123abc.scope/container", "libpod 0123abc"),
        ("0::/user.slice/user-1.slice/user@1.service/user.slice/libpod-0123abc.scope", "libpod 0123abc"),
        ("0::/machine.slice/libpod-conmon-0123abc.scope", ""),
        ("0::/kubepods.slice/pod1.slice/cri-containerd-0123abc.scope", "cri-containerd 0123abc"),
        ("0::/machine.slice/machine-old\\x2dvm.scope", "machine old"),
        ("0::/system.slice/docker.service", ""),
        ("0::/system.slice/redis-server.service", ""),
    ],
)
def test_what_a_container_is_called(groups: str, told: str) -> None:
    assert _container(f"{groups}\n") == told


@pytest.mark.parametrize(
    ("places", "both", "address"),
    [
        ([("0.0.0.0", 1), ("::", 1)], True, "127.0.0.1"),
        ([("::", 1)], True, "127.0.0.1"),
        ([("::", 1)], False, "::1"),
        ([("::1", 1)], True, "::1"),
        ([("10.0.0.4", 1), ("127.0.0.1", 2)], True, "10.0.0.4"),
        ([("10.0.0.4", 1), ("127.0.0.1", 1)], True, "127.0.0.1"),
        ([], True, ""),
    ],
)
def test_the_address_that_reaches_a_port(places: list[tuple[str, int]], both: bool, address: str) -> None:
    assert local(places, 1, both) == address


def test_servers_are_reached_where_they_listen(tmp_path: Path) -> None:
    found = Found()
    there = [("10.0.0.4", 7000)]
    sight = seen(
        process(["redis-server 10.0.0.4:7000"], NONE),
        process(["mongod"], NONE + 1, "/usr/bin/mongod"),
        process(["etcd", "--listen-client-urls=http://0.0.0.0:7002"], NONE + 2, "/usr/bin/etcd"),
        ports={NONE: there, NONE + 1: [("::1", 7001)], NONE + 2: [("0.0.0.0", 7002)]},
    )
    for find in (databases.redis, databases.mongodb, systems.etcd):
        find(sight, found)
    redis, mongodb, etcd = (instance.settings for instance in found.instances)
    assert redis["connect"] == ["-h", "10.0.0.4", "-p", "7000"]
    assert mongodb["uri"] == "mongodb://[::1]:7001/?directConnection=true"
    assert etcd["connect"] == ["--endpoints=http://127.0.0.1:7002"]
    assert len(compiled(tmp_path, found.instances)) == 3


def test_a_cluster_without_a_socket_is_reached_by_its_address(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{NONE}\n\n0\n5433\n\n10.0.0.4\n")
    found = Found()
    argv = ["postgres", "-D", str(tmp_path), "-c", "config_file=/etc/postgresql/15/shop/postgresql.conf"]
    databases.postgresql(seen(process(argv, NONE), ports={NONE: [("10.0.0.4", 5433)]}), found)
    (instance,) = found.instances
    assert (instance.settings["host"], instance.settings["port"]) == ("10.0.0.4", 5433)
    assert instance.name == "postgresql-15-shop", "as Debian calls it, wherever its data are"
    assert any("only TCP" in sentence for sentence in instance.unsure)


@pytest.mark.parametrize("title", ["redis-server *:1", "ora_pmon_X", "hdbnameserver", "db2sysc"])
def test_a_title_alone_makes_no_server(title: str) -> None:
    found = Found()
    for find in (databases.redis, systems.oracle, systems.hana, systems.db2):
        find(seen(process([title], NONE, "/usr/bin/sudo")), found)
    assert (found.instances, found.undecided) == ([], [])


@pytest.mark.parametrize(
    ("unit", "units", "sure"),
    [
        ("neo4j.service", "neo4j.service", True),
        ("neo4j@shop.service", "neo4j@shop.service", True),
        ("apache2.service", "neo4j.service", False),
        ("user@1000.service", "neo4j.service", False),
    ],
)
def test_no_unit_is_stopped_that_only_happens_to_hold_such_a_process(
    unit: str, units: str, sure: bool
) -> None:
    found = Found()
    systems.java(seen(process(["java", "com.neo4j.server.EntryPoint"], NONE, "/j/java", unit=unit)), found)
    (instance,) = found.instances
    assert instance.settings["units"] == [units]
    assert sure != any("units is a guess" in sentence for sentence in instance.unsure)


def test_a_process_that_listens_nowhere_is_no_server() -> None:
    found = Found()
    sight = seen(process(["mysqld", "--initialize"], NONE, "/usr/sbin/mysqld"), sees_all=True)
    databases.mysql(sight, found)
    assert is_silent(sight, found.instances[0])
    sight.sockets[NONE] = ["/run/m.sock"]
    assert not is_silent(sight, found.instances[0])
    sight.sockets, sight.sees_all = {}, False
    assert not is_silent(sight, found.instances[0]), "what cannot be seen is not denied"


def test_the_client_beside_a_server_is_taken_if_it_is_roots(tmp_path: Path) -> None:
    for client, told in (("/usr/bin/env", False), (str(tmp_path / "mongosh"), True)):
        found = Found()
        sight = seen(process(["mongod"], NONE, f"{Path(client).parent}/mongod"))
        databases.mongodb(sight, found)
        (instance,) = found.instances
        with pytest.MonkeyPatch.context() as patch:
            name = Path(client).name
            patch.setattr("app.detect.finding._CLIENTS", {"mongodb": ("client", name, "")})
            patch.setattr("app.detect.sight.SEARCH_PATH", "/nowhere")
            find_client(sight, instance)
        assert instance.settings.get("client") == (None if told else client)
        assert told == any("was not found" in sentence for sentence in instance.unsure)


def test_the_x_plugins_socket_and_port_are_not_mysqls_own() -> None:
    options = ["--mysqlx_socket=/run/x.sock", "--mysqlx-port=3000"]
    for argv, sockets, path, told in (
        ([*options], ["/run/x.sock", "/run/m.sock"], "/run/m.sock", False),
        (["--socket=/run/b.sock"], ["/run/a.sock", "/run/b.sock"], "/run/b.sock", False),
        ([], ["/run/mysqlx.sock", "/run/b.sock"], "/run/b.sock", False),
        ([], ["/run/a.sock", "/srv/mysqld.sock"], "/srv/mysqld.sock", True),
    ):
        found = Found()
        sight = seen(
            process(["/usr/sbin/mysqld", *argv], NONE),
            sockets={NONE: sockets},
            ports={NONE: [("::", 33060), ("::", 3307), ("::", 3000)] if argv == options else [("::", 3307)]},
        )
        databases.mysql(sight, found)
        (instance,) = found.instances
        assert (instance.settings["socket"], instance.name) == (path, "mysql-3307")
        assert told == any("X plugin" in sentence for sentence in instance.unsure)


# --- RabbitMQ, OpenLDAP, InfluxDB, Firebird ----------------------------------------------------------------

BEAM = "/usr/lib/erlang/erts-13.1.5/bin/beam.smp"
OPENED = ["/srv/mq/shop@vm1/quorum/shop@vm1/00000001.wal", "/var/log/rabbitmq/shop@vm1.log"]


def test_a_node_of_rabbitmq_is_known_by_what_it_has_open(tmp_path: Path) -> None:
    found = Found()
    argv = [BEAM, "--", "-root", "/usr/lib/erlang", "-epmd_port", "4370", "-s", "rabbit", "boot"]
    other = process([BEAM, "-s", "couch", "boot"], NONE + 1, BEAM)
    daemons.rabbitmq(seen(process(argv, NONE, BEAM), other, open_files={NONE: OPENED}), found)
    (instance,) = found.instances
    assert instance.name == "rabbitmq-shop-vm1"
    assert instance.settings["folder"] == "/srv/mq"
    assert instance.settings["connect"] == ["--node", "shop@vm1"]
    assert instance.environment == {"ERL_EPMD_PORT": "4370"}
    assert any("disconnected" in sentence for sentence in instance.unsure)
    assert compiled(tmp_path, found.instances) == ["rabbitmq-shop-vm1"]


def ldap_folder(image: Path) -> Path:
    folder = image / "etc/ldap/slapd.d/cn=config"
    folder.mkdir(parents=True)
    (folder / "olcDatabase={0}config.ldif").write_text("olcDatabase: {0}config\n")
    (folder / "olcDatabase={1}mdb.ldif").write_text("olcSuffix: dc=a\n dmin\nolcDbDirectory: /var/lib/ldap\n")
    coded = base64.b64encode("dc=é".encode()).decode()
    (folder / "olcDatabase={2}mdb.ldif").write_text(f"olcSuffix:: {coded}\n")
    (folder / "olcDatabase={3}mdb.ldif").write_text('olcSuffix: o="x\\y"\n')
    return folder.parent


def test_databases_of_openldap_are_those_of_its_configuration(tmp_path: Path) -> None:
    folder = ldap_folder(tmp_path)
    found = Found()
    argv = ["/usr/sbin/slapd", "-h", "ldap:/// ldapi://%2Frun%2Fs", "-F", str(folder)]
    daemons.openldap(seen(process(argv, NONE, "/usr/sbin/slapd")), found)
    assert [i.settings for i in found.instances] == [
        {"suffix": "dc=admin", "uri": "ldapi://%2Frun%2Fs"},
        {"suffix": "dc=é", "uri": "ldapi://%2Frun%2Fs", "database": "olcDatabase={2}mdb,cn=config"},
    ]
    assert len(compiled(tmp_path, found.instances)) == 2


def test_openldap_in_an_image(tmp_path: Path) -> None:
    ldap_folder(tmp_path)
    assert [(i.policy, i.settings["suffix"], i.running) for i in detect(str(tmp_path)).instances] == [
        ("openldap", "dc=admin", False),
        ("openldap", "dc=é", False),
    ]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["slapd", "-f", "/etc/ldap/slapd.conf"], "has a slapd.conf"),
        (["slapd", "-F", "/nowhere"], "no mdb database was seen"),
    ],
)
def test_an_openldap_that_cannot_be_asked_is_told(argv: list[str], told: str) -> None:
    found = Found()
    daemons.openldap(seen(process(argv, NONE, "/usr/sbin/slapd")), found)
    assert found.instances == []
    assert told in found.undecided[0]


INFLUX = """
bind-address = "127.0.0.1:8098"
[meta]
dir = "/srv/influx/meta"
[http]
bind-address = ":8096"
auth-enabled = true
"""


def test_influxdb_is_known_by_its_file_and_what_it_listens_on(tmp_path: Path) -> None:
    (tmp_path / "influxdb.conf").write_text(INFLUX)
    argv = ["influxd", "-config", str(tmp_path / "influxdb.conf")]
    found = Found()
    ports = {NONE: [("127.0.0.1", 8098), ("::", 8096)]}
    daemons.influxdb(seen(process(argv, NONE, "/usr/bin/influxd"), ports=ports), found)
    (instance,) = found.instances
    wanted = {"folder": "/srv/influx", "backup_address": "127.0.0.1:8098", "ask": False}
    assert instance.settings.items() >= wanted.items()
    assert instance.settings["connect"] == ["-host", "127.0.0.1", "-port", "8096"]
    assert compiled(tmp_path, found.instances) == ["influxdb-8096"]


@pytest.mark.parametrize("text", ["", "no = toml = at all", "meta = 1\nhttp = [1]\n", "[" * 5000])
def test_a_file_of_influxdb_that_says_nothing_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "c").write_text(text)
    found = Found()
    sight = seen(process(["influxd", "-config", str(tmp_path / "c")], NONE, "/usr/bin/influxd"))
    daemons.influxdb(sight, found)
    assert [i.policy for i in found.instances] == ["influxdb"]
    assert compiled(tmp_path, found.instances) == ["influxdb"]


def test_tools_of_influxdb_and_the_second_version_are_no_servers_of_the_first() -> None:
    found = Found()
    sight = seen(
        process(["influxd", "backup", "/x"], NONE, "/usr/bin/influxd"),
        process(["influxd"], NONE + 1, "/usr/bin/influxd"),
        open_files={NONE + 1: ["/var/lib/influxdb/influxd.bolt"]},
    )
    daemons.influxdb(sight, found)
    assert found.instances == []
    assert ["InfluxDB 2" in sentence for sentence in found.undecided] == [True]


def test_databases_of_firebird_are_known_by_their_header(tmp_path: Path) -> None:
    header = bytes([1, 0]) + bytes(14) + (8192).to_bytes(2, "little") + (0x800C).to_bytes(2, "little")
    for name in ("shop.fdb", "security3.fdb", "shop.fdb.delta"):
        (tmp_path / name).write_bytes(header + bytes(100))
    (tmp_path / "text").write_bytes(b"\x01" + b" " * 30)
    opened = [str(path) for path in tmp_path.iterdir()]
    found = Found()
    daemons.firebird(
        seen(
            process(["firebird"], NONE, "/usr/sbin/firebird"),
            process(["firebird"], NONE + 1, "/usr/sbin/firebird"),
            open_files={NONE: opened},
            ports={NONE: [("127.0.0.1", 3051), ("127.0.0.1", 40000)]},
        ),
        found,
    )
    (instance,) = found.instances
    assert instance.settings["file"] == str(tmp_path / "shop.fdb")
    assert instance.settings["server"] == "localhost/3051"
    assert any("password" in sentence for sentence in instance.unsure)
    assert compiled(tmp_path, found.instances) == ["firebird-shop"]
    (told,) = found.undecided
    assert f"process {NONE + 1}" in told
    assert "app init NAME --from firebird" in told


def test_etcd_is_found_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "etcd.yml"
    file.write_text("name: a\ndata-dir: '/srv/etcd'\nlisten-client-urls: https://10.0.0.4:2379,http://b:1\n")
    found = Found()
    argv = ["etcd", "--config-file", str(file), "--data-dir=/elsewhere"]
    systems.etcd(seen(process(argv, NONE, "/usr/bin/etcd")), found)
    (instance,) = found.instances
    assert instance.settings["data_dir"] == "/srv/etcd"
    assert instance.settings["connect"] == ["--endpoints=https://10.0.0.4:2379"]


def test_etcd_before_three_five_reads_its_backups_itself(tmp_path: Path) -> None:
    for name in ("etcdctl", "etcdutl"):
        (tmp_path / "usr/bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "usr/bin" / name).touch()
        (tmp_path / "lib/systemd/system").mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib/systemd/system/etcd.service").touch()
        (instance,) = detect(str(tmp_path)).instances
        assert instance.settings == ({"etcdutl": "etcdctl"} if name == "etcdctl" else {})
    (tmp_path / "var/lib/etcd/default").mkdir(parents=True)
    assert detect(str(tmp_path)).instances[0].settings == {"data_dir": "/var/lib/etcd/default"}
