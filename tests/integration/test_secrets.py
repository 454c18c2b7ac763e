"""Secrets stand in the memory of the keeper and of its client, and nowhere else on the machine.

A canary is the password of a real server. During a hold, after it, and after a kill, it is looked for in the
arguments and environments of all processes, in the memory of those of ours that must not know it, and in
every file that was written.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app import credentials, masking
from app.errors import HostUnfit
from app.mechanisms import StepFailed, Waiter, command, session
from app.plan import Secret, Step
from tests import postgres, web
from tests.integration import clusters
from tests.integration.stage import Cycle, Stage, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """What a test's own process has read is no secret to the next one."""
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    masking._known.clear()
    resource.setrlimit(resource.RLIMIT_CORE, limit)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


@pytest.fixture
def canary() -> str:
    """A password with all that has to be quoted somewhere; the end of it is unlike anything else."""
    return f'it\'s "{{x}}" & ä%$ {os.urandom(8).hex()}canary'


def secret_file(here: Stage, canary: str) -> Path:
    path = here.folder / "password"
    path.write_text(f"{canary}\n")
    path.chmod(0o600)
    return path


# -- where it is looked for -----------------------------------------------------------------------------


def seen_by_everybody(tail: bytes) -> list[str]:
    """Arguments and environments of processes that hold it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in ("cmdline", "environ", "comm"):
                with contextlib.suppress(OSError):
                    if tail in (entry / name).read_bytes():
                        found.append(f"{entry}/{name}")
    return found


def in_memory(pid: int, tail: bytes) -> bool:
    """Whether a process has it anywhere in its memory."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r.* ([0-9]+)\s*(.*)$", line)
            if match and not match.group(4).startswith(("[vvar", "[vsyscall", "[vdso")):
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(int(match.group(1), 16))
                    if tail in memory.read(int(match.group(2), 16) - int(match.group(1), 16)):
                        return True
    return False


def written(tail: bytes, *folders: Path, but: Path) -> list[Path]:
    """Files below the folders that hold it."""
    found: list[Path] = []
    for folder in folders:
        files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        found += [path for path in files if path != but and tail in path.read_bytes()]
    return found


def check_hidden(here: Stage, cycle: Cycle, canary: str, held: bool) -> None:
    """It is nowhere but where it may be; ``held``: and there it really is."""
    tail = canary[-22:].encode()
    assert seen_by_everybody(tail) == []
    assert written(tail, here.folder, but=here.folder / "password") == []
    if held:
        for role in ("app", "holder", "watchdog"):
            assert not in_memory(cycle.pid(role), tail), role
        assert in_memory(cycle.pid("keeper"), tail), "the search finds what is there"
        for role in ("keeper", "client"):
            limits = Path(f"/proc/{cycle.pid(role)}/limits").read_text()
            assert re.search(r"Max core file size +1 ", limits), limits


# -- PostgreSQL: an option file -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked_postgres() -> Iterator[postgres.Postgres]:
    """A server that wants a password from everybody; it is set by ``lock``."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if postgres.programs() is None or shutil.which("psql") is None:
        pytest.skip("needs a PostgreSQL server and psql")
    with tempfile.TemporaryDirectory(prefix="stillframe-secrets-", dir="/dev/shm") as folder:
        Path(folder).chmod(0o755)
        with clusters.cluster(Path(folder, "pg"), settings="fsync = off") as server:
            yield server


@contextlib.contextmanager
def locked(server: postgres.Postgres, password: str) -> Iterator[None]:
    access = server.data / "pg_hba.conf"
    before = access.read_text()
    quoted = password.replace("'", "''")
    argv = ["psql", "-XqAt", server.conninfo]
    subprocess.run(argv, input=f"ALTER USER postgres PASSWORD '{quoted}'", text=True, check=True)
    access.write_text("local all all scram-sha-256\n")
    server_pid = int((server.data / "postmaster.pid").read_text().split()[0])
    os.kill(server_pid, signal.SIGHUP)
    time.sleep(0.3)
    try:
        yield
    finally:
        access.write_text(before)
        os.kill(server_pid, signal.SIGHUP)
        time.sleep(0.3)


def postgres_policy(here: Stage, server: postgres.Postgres, source: str, seconds: float) -> Path:
    return here.policy(
        f"""
        name = "orders"
        extends = "postgresql"
        [secrets.password]
        {source}
        [settings]
        host = "{server.socket}"
        [session]
        files = {{ pgpass = "*:*:*:*:{{password}}\\n" }}
        [session.environment]
        PGPASSFILE = "{{pgpass}}"
        [timing]
        quiesce = 10
        retries = 0
        hold = 20
        release = 10
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        seconds = {seconds}
        """,
        f"orders-{seconds}",
    )


def test_a_password_file_for_psql(here: Stage, canary: str, locked_postgres: postgres.Postgres) -> None:
    with locked(locked_postgres, canary):
        file = secret_file(here, canary)
        cycle = here.start("run", "--json", postgres_policy(here, locked_postgres, f'file = "{file}"', 1))
        cycle.when("snapshot_begin")
        check_hidden(here, cycle, canary, held=True)
        client = cycle.pid("client")
        links = [os.readlink(path) for path in Path(f"/proc/{client}/fd").iterdir()]
        assert "/memfd:pgpass (deleted)" in links
        assert cycle.wait() == 0, cycle.output + cycle.errors
        check_hidden(here, cycle, canary, held=False)
    (report,) = here.reports()
    assert report["achieved"] == "application"
    assert report["applications"][0]["saved"]["backup_label"]
    assert sorted(os.listdir(here.paths.run)) == ["journal", "lock", "plan.json"]


def test_a_wrong_password_is_named_nowhere(
    here: Stage, canary: str, locked_postgres: postgres.Postgres
) -> None:
    with locked(locked_postgres, "another one"):
        file = secret_file(here, canary)
        cycle = here.start("run", "--json", postgres_policy(here, locked_postgres, f'file = "{file}"', 0))
        assert cycle.wait() != 0
        assert "password authentication failed" in cycle.output
        check_hidden(here, cycle, canary, held=False)


@pytest.mark.parametrize("who", ["keeper", "holder", "watchdog", "client"])
def test_nothing_is_left_when_one_is_killed(
    here: Stage, canary: str, locked_postgres: postgres.Postgres, who: str
) -> None:
    with locked(locked_postgres, canary):
        file = secret_file(here, canary)
        cycle = here.start("run", "--json", postgres_policy(here, locked_postgres, f'file = "{file}"', 5))
        victim = cycle.pid(who)
        cycle.when("snapshot_begin")
        os.kill(victim, signal.SIGKILL)
        cycle.wait(15)
        here.wait_until_free(5)
        check_hidden(here, cycle, canary, held=False)
        assert sorted(os.listdir(here.paths.run)) == ["journal", "lock", "plan.json"]


def test_the_compiled_files_name_the_place_only(
    here: Stage, canary: str, locked_postgres: postgres.Postgres
) -> None:
    file = secret_file(here, canary)
    policy = postgres_policy(here, locked_postgres, f'file = "{file}"', 0)
    out = here.folder / "out"
    out.mkdir()
    assert here.app("compile", policy, "--root", out)[0] == 0
    assert written(canary[-22:].encode(), out, but=file) == []
    plan = json.loads((out / "etc/azure/stillframe/plan.json").read_text())
    assert plan["applications"][0]["secrets"]["password"]["file"] == str(file)
    status, text, _ = here.app("explain", policy)
    assert (status, canary[-22:] in text) == (0, False)
    assert f"secret password from the file {file}" in " ".join(text.split())


# -- MariaDB: an option file in the place of the policy's own ---------------------------------------------


@pytest.fixture
def mariadb() -> Iterator[Path]:
    """The socket of a server whose root has no password yet."""
    programs = "/usr/sbin:/usr/bin"
    found = [shutil.which(name, path=programs) for name in ("mariadbd", "mariadb", "mariadb-install-db")]
    if not all(found):
        pytest.skip("needs mariadbd, mariadb and mariadb-install-db")
    with tempfile.TemporaryDirectory(prefix="sf-maria-", dir="/tmp") as folder:
        shutil.chown(folder, "mysql", "mysql")
        Path(folder).chmod(0o755)
        place = ["--no-defaults", f"--datadir={folder}/data", "--user=mysql"]
        make = ["mariadb-install-db", *place, "--skip-test-db", "--auth-root-authentication-method=normal"]
        subprocess.run(make, check=True, capture_output=True)
        options = [f"--socket={folder}/s", f"--pid-file={folder}/pid", "--skip-networking"]
        server = subprocess.Popen(["mariadbd", *place, *options], stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 60
        while not Path(folder, "s").exists():
            assert server.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        yield Path(folder, "s")
        server.terminate()
        server.wait()


def test_an_option_file_for_mariadb(here: Stage, mariadb: Path) -> None:
    """The client opens it by the name of its descriptor; argv is the shipped policy's own."""
    name = f"canary{os.urandom(8).hex()}"
    file = secret_file(here, name)
    argv = ["mariadb", "--no-defaults", f"--socket={mariadb}", "--user=root"]
    statement = f"SET PASSWORD FOR root@localhost = PASSWORD('{name}')"
    subprocess.run(argv, input=statement, text=True, check=True)
    policy = here.policy(
        f"""
        name = "shop"
        extends = "mariadb"
        [secrets.password]
        file = "{file}"
        [settings]
        socket = "{mariadb}"
        [session]
        files = {{ option_file = "[client]\\npassword={{password}}\\n" }}
        [timing]
        quiesce = 20
        retries = 0
        hold = 20
        release = 10
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        seconds = 1
        """
    )
    cycle = here.start("run", "--json", policy)
    cycle.when("snapshot_begin")
    check_hidden(here, cycle, name, held=True)
    assert cycle.wait() == 0, cycle.output + cycle.errors
    check_hidden(here, cycle, name, held=False)
    assert here.reports()[0]["achieved"] == "application"


# -- Redis: a login, and a release on a connection of somebody else's ---------------------------------------


@dataclass(frozen=True, slots=True)
class Redis:
    socket: Path

    def ask(self, *words: str, password: str = "", seconds: float = 10) -> str:
        """The answer to one command, after AUTH if there is a password: typed, never an argument."""
        quoted = "".join(f"\\x{b:02x}" for b in password.encode())
        text = (f'AUTH "{quoted}"\n' if password else "") + " ".join(words) + "\n"
        argv = ["redis-cli", "-s", str(self.socket)]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=seconds)
        return done.stdout.removeprefix("OK\n").strip()

    def is_paused(self, password: str) -> bool:
        """Whether a write has to wait."""
        try:
            return "OK" not in self.ask("SET", "a", "b", password=password, seconds=0.2)
        except subprocess.TimeoutExpired:
            return True


@pytest.fixture
def redis(canary: str) -> Iterator[Redis]:
    """A server whose password is the canary; it reads that from its standard input."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    with tempfile.TemporaryDirectory(prefix="sf-redis-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        path = Path(folder, "s")
        quoted = "".join(f"\\x{b:02x}" for b in canary.encode())
        settings = f'port 0\nunixsocket {path}\nunixsocketperm 777\ndir {folder}\nrequirepass "{quoted}"\n'
        server = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert server.stdin is not None
        server.stdin.write(settings.encode())
        server.stdin.close()
        made = Redis(path)
        give_up = time.monotonic() + 10
        while "PONG" not in made.ask("PING", password=canary):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield made
        server.kill()
        server.wait()


def redis_policy(here: Stage, redis: Redis, source: str, seconds: float) -> Path:
    return here.policy(
        f"""
        name = "cache"
        extends = "redis"
        [secrets.password]
        {source}
        [settings]
        connect = ["-s", "{redis.socket}"]
        [session]
        login = ["AUTH {{password:quoted}}"]
        [timing]
        quiesce = 10
        retries = 0
        hold = 20
        release = 10
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        seconds = {seconds}
        """,
        f"cache-{seconds}",
    )


def test_a_login_for_redis(here: Stage, canary: str, redis: Redis) -> None:
    file = secret_file(here, canary)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{file}"', 1))
    cycle.when("snapshot_begin")
    check_hidden(here, cycle, canary, held=True)
    assert cycle.wait() == 0, cycle.output + cycle.errors
    check_hidden(here, cycle, canary, held=False)
    assert here.reports()[0]["achieved"] == "application"


@pytest.mark.parametrize("who", ["keeper", "holder"])
def test_whoever_survives_logs_in_by_itself(here: Stage, canary: str, redis: Redis, who: str) -> None:
    """What outlives the session is released by another process, which reads the secret then."""
    program = here.program("tell", f"#!/bin/sh\ncat '{secret_file(here, canary)}'\n")
    cycle = here.start("run", "--json", redis_policy(here, redis, f'command = ["{program}"]', 5))
    victim = cycle.pid(who)
    cycle.when("snapshot_begin")
    assert redis.is_paused(canary)
    os.kill(victim, signal.SIGKILL)
    struck = time.monotonic()
    while redis.is_paused(canary):
        assert time.monotonic() - struck < 2
    cycle.wait(15)
    here.wait_until_free(5)
    check_hidden(here, cycle, canary, held=False)


def test_recover_logs_in_by_itself(here: Stage, canary: str, redis: Redis) -> None:
    """Everybody died: whoever comes next reads the secret, and says nothing of it."""
    file = secret_file(here, canary)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{file}"', 30))
    cycle.when("snapshot_begin")
    pids = [cycle.process.pid, *(e["pid"] for e in here.events() if e["event"] == "process")]
    living = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in living:
            os.kill(pid, number)
    cycle.wait()
    here.wait_until_free(5)
    assert redis.is_paused(canary)
    status, output, errors = here.app("recover")
    assert (status, redis.is_paused(canary)) == (0, False), output + errors
    check_hidden(here, cycle, canary, held=False)


def test_a_secret_that_was_changed_is_read_anew(here: Stage, canary: str, redis: Redis) -> None:
    file = secret_file(here, canary)
    file.write_text("an old password\n")
    policy = redis_policy(here, redis, f'file = "{file}"', 0)
    policy.write_text(policy.read_text().replace("retries = 0", "retries = 5"))
    cycle = here.start("run", "--json", policy)
    cycle.when("attempt_failed")
    file.write_text(f"{canary}\n")
    assert cycle.wait() == 0, cycle.output
    assert here.reports()[0]["achieved"] == "application"
    check_hidden(here, cycle, canary, held=False)


def test_a_login_that_fails(here: Stage, canary: str, redis: Redis) -> None:
    secret_file(here, canary)
    wrong = here.folder / "wrong"
    wrong.write_text("not " + canary)
    wrong.chmod(0o600)
    cycle = here.start("run", "--json", redis_policy(here, redis, f'file = "{wrong}"', 0))
    assert cycle.wait() != 0
    wrong.unlink()
    check_hidden(here, cycle, canary, held=False)


# -- the other places -----------------------------------------------------------------------------------


def test_headers_and_body_of_requests(here: Stage, canary: str) -> None:
    name = f"canary{os.urandom(8).hex()}"
    file = secret_file(here, name)
    with web.web() as server:
        for path in ("/hold", "/release"):
            server.says(path, f"you said {name}", status=200)
        policy = here.policy(
            f"""
            name = "api"
            [secrets.token]
            file = "{file}"
            [http]
            url = "{server.url}"
            headers = {{ Authorization = "Bearer {{token}}", X-Braces = "{{{{}}}}" }}
            [[quiesce]]
            mechanism = "http"
            method = "POST"
            path = "/hold"
            body = '{{{{"key": {{token:json}}}}}}'
            expect = '^you said'
            [[verify]]
            mechanism = "http"
            path = "/hold"
            proof = true
            [[release]]
            mechanism = "http"
            method = "DELETE"
            path = "/release"
            expect = 'nothing like it'
            [[recover]]
            mechanism = "http"
            path = "/release"
            [freeze]
            enabled = false
            [snapshot]
            provider = "none"
            """
        )
        cycle = here.start("run", "--json", policy)
        assert cycle.wait() == 1
    (hold, *_) = server.seen
    assert hold[2]["authorization"] == f"Bearer {name}"
    assert hold[2]["x-braces"] == "{}"
    assert json.loads(hold[3]) == {"key": name}
    assert "answered 'you said [secret]'" in cycle.output
    check_hidden(here, cycle, name, held=False)


def connected(options: dict[str, object], secret: str) -> session.SessionConnection:
    masking.remember(secret)
    return session.connect(options, [], Waiter(), lambda pid: None, time.monotonic() + 10)


def test_a_client_that_repeats_what_is_typed_is_masked(canary: str) -> None:
    """With -v the shell says every line that it reads."""
    options: dict[str, object] = {"argv": ["sh", "-v"], "mark": "echo {mark} $?", "failed": "^{mark} [1-9]"}
    with pytest.raises(StepFailed) as caught:
        connected({**options, "login": [f": {'x' * 290} '{canary}'; false"]}, canary)
    assert "login, statement 1" in str(caught.value)
    assert canary[-22:] not in str(caught.value)
    with pytest.raises(StepFailed) as caught:
        connected({**options, "login": ["exit 3"], "begin": [f"'{canary}'"]}, canary)
    assert canary[-22:] not in str(caught.value)


def test_standard_input_of_a_command(canary: str) -> None:
    step = Step("command", {"argv": ["cat"], "stdin": canary})
    with contextlib.closing(_Closing(command.connect({}, [step], Waiter(), lambda pid: None, 0))) as opened:
        assert opened.link.perform(step, time.monotonic() + 5) == canary


def test_private_files_of_a_command_are_its_user_s(canary: str) -> None:
    step = Step(
        "command", {"argv": ["sh", "-c", "id -un; cat {one} {two}; stat -Lc '%U %a' {one}; echo >{one}"]}
    )
    options = {"user": "nobody", "files": {"one": canary, "two": "{braces}"}}
    with (
        contextlib.closing(
            _Closing(command.connect(options, [step], Waiter(), lambda pid: None, 0))
        ) as opened,
        pytest.raises(StepFailed) as caught,
    ):
        opened.link.perform(step, time.monotonic() + 5)
    assert f"nobody {canary}{{braces}}nobody 600" in str(caught.value)
    assert "Operation not permitted" in str(caught.value), "it is sealed"


@dataclass
class _Closing:
    link: command.CommandConnection

    def close(self) -> None:
        self.link.close(0)


def test_an_answer_that_holds_a_secret_is_not_saved(here: Stage) -> None:
    name = f"canary{os.urandom(8).hex()}"
    file = secret_file(here, name)
    policy = here.policy(
        f"""
        name = "leaky"
        level = "crash"
        [secrets.password]
        file = "{file}"
        [[quiesce]]
        mechanism = "command"
        argv = ["cat"]
        stdin = "{{password}}"
        save = "said"
        [[release]]
        mechanism = "command"
        argv = ["true"]
        [[recover]]
        mechanism = "command"
        argv = ["true"]
        [timing]
        retries = 0
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        """
    )
    cycle = here.start("run", "--json", policy)
    cycle.wait()
    assert "the answer holds a secret" in cycle.output
    check_hidden(here, cycle, name, held=False)


# -- reading --------------------------------------------------------------------------------------------


def read(**source: object) -> str:
    vault = credentials.Vault({"it": Secret(**source)})  # type: ignore[arg-type]  # each test gives one
    vault.open(Waiter(), lambda pid: None, time.monotonic() + 10)
    return vault.values["it"]


@pytest.mark.parametrize(("text", "value"), [("abcd", "abcd"), ("ab cd\n", "ab cd"), ("äöüß\r\n", "äöüß")])
def test_a_file(here: Stage, text: str, value: str) -> None:
    path = here.folder / "password"
    path.write_bytes(text.encode())
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert read(file=str(path)) == value


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "shorter than 4"),
        (b"abc\n", "shorter than 4"),
        (b"abcd\nefgh\n", "more than one line"),
        (b"abcd\0", "more than one line, or holds what is no text"),
        (b"\xff\xfe\xfd\xfc", "no text"),
        (b"x" * 70_000, "larger than"),
    ],
)
def test_what_is_no_secret(here: Stage, data: bytes, why: str) -> None:
    path = here.folder / "password"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(HostUnfit, match=why):
        read(file=str(path))


def test_a_file_that_others_could_read_or_change(here: Stage) -> None:
    path = here.folder / "password"
    path.write_text("password")
    for mode in (0o640, 0o604, 0o660, 0o602):
        path.chmod(mode)
        with pytest.raises(HostUnfit, match="others may"):
            read(file=str(path))
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    with pytest.raises(HostUnfit, match="not by root"):
        read(file=str(path))
    os.chown(path, 0, 0)
    link = here.folder / "link"
    link.symlink_to(path)
    with pytest.raises(HostUnfit, match="symbolic link"):
        read(file=str(link))
    with pytest.raises(HostUnfit, match="does not exist"):
        read(file=str(here.folder / "missing"))


def test_a_program(here: Stage) -> None:
    tell = here.program("tell", '#!/bin/sh\necho "noise" >&2\nprintf "%s\\n" "the $1"\n')
    assert read(command=(str(tell), "secret")) == "the secret"
    fails = here.program("fails", "#!/bin/sh\necho half-a-secret\nexit 2\n")
    with pytest.raises(StepFailed) as caught:
        read(command=(str(fails),))
    assert "ended with status 2" in str(caught.value)
    assert "half" not in str(caught.value)
    fails.chmod(0o777)
    with pytest.raises(HostUnfit, match="writ"):
        read(command=(str(fails),))
    vault = credentials.Vault({"it": Secret(command=("sleep", "100"))})
    begun = time.monotonic()
    with pytest.raises(StepFailed, match="time allowed"):
        vault.open(Waiter(), lambda pid: None, begun + 0.3)
    assert time.monotonic() - begun < 2


def test_a_credential_that_our_service_was_given(here: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here.folder / "credentials"
    folder.mkdir(mode=0o500)
    (folder / "it").write_text("given")
    (folder / "it").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert read(credential="it") == "given"
    with pytest.raises(HostUnfit, match="no credential other"):
        read(credential="other")


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_credential_in_systemd_s_own_stores(encrypted: bool) -> None:
    name = f"stillframe-test-{os.getpid()}"
    store = Path("/run/credstore.encrypted" if encrypted else "/run/credstore")
    if encrypted and shutil.which("systemd-creds") is None:
        pytest.skip("needs systemd-creds")
    had = store.exists()
    store.mkdir(mode=0o700, exist_ok=True)
    try:
        if encrypted:
            # A key that is nobody's: this machine need not have one.
            argv = [
                "systemd-creds",
                "encrypt",
                "--with-key=tpm2-absent",
                f"--name={name}",
                "-",
                f"{store}/{name}",
            ]
            done = subprocess.run(argv, input="stored äöü", capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"systemd-creds cannot encrypt here: {done.stderr.strip()}")
        else:
            (store / name).write_text("stored äöü\n")
        (store / name).chmod(0o600)
        assert read(credential=name) == "stored äöü"
    finally:
        (store / name).unlink(missing_ok=True)
        if not had:
            store.rmdir()


def test_no_core_is_left(here: Stage) -> None:
    """A process that has read a secret, and a program that it has started, against one that has not."""
    path = secret_file(here, "a secret")

    def dumped(*, reads: bool, program: bool) -> bool:
        pid = os.fork()
        if pid == 0:
            try:
                os.chdir(here.folder)
                resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
                if reads:
                    read(file=str(path))
                if program:
                    os.execv("/bin/sh", ["sh", "-c", "kill -QUIT $$"])  # noqa: S606 - a shell it is
                signal.signal(signal.SIGQUIT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGQUIT)
            finally:
                os._exit(1)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status)
        return os.WCOREDUMP(status)

    if not dumped(reads=False, program=False) or not dumped(reads=False, program=True):
        pytest.skip("this machine dumps no core anyway")
    assert not dumped(reads=True, program=False)
    assert not dumped(reads=True, program=True)
