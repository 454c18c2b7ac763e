"""Where a secret is read from, and what is refused there."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from app import credentials
from app.errors import HostUnfit
from app.mechanisms import StepFailed, Waiter
from app.plan import Secret
from tests.integration.secrets.hiding import secret_file
from tests.integration.stage import Stage

pytestmark = [pytest.mark.integration, pytest.mark.root]


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


def test_the_report_says_in_one_line_what_would_be_right(here: Stage) -> None:
    path = secret_file(here, "a secret")
    path.chmod(0o640)
    steps = "".join(
        f'[[{key}]]\nmechanism = "command"\nargv = ["true"]\n' for key in ("quiesce", "release", "recover")
    )
    head = f'name = "one"\nlevel = "crash"\n[secrets.password]\nfile = "{path}"\n'
    steps += '[command]\nstdin = "{password}"\n'
    rest = '[freeze]\nenabled = false\n[snapshot]\nprovider = "none"\n'
    began = time.monotonic()
    status, report = here.run(here.policy(head + steps + rest))
    assert (status, report["applications"][0]["held"]) == (0, False)
    assert time.monotonic() - began < 5, "three attempts, and a second between two of them"
    (one,) = report["applications"]
    assert one["because"] == [f"{path}: mode 640: others may read it (chmod 600 {path})"]


def test_what_a_command_was_refused_for_is_read_anew(here: Stage) -> None:
    """A session logs in when it connects, a command when it is run."""
    path = secret_file(here, "a wrong one")
    policy = here.policy(
        f"""
        name = "one"
        [secrets.password]
        file = "{path}"
        [command]
        stdin = "{{password}}\\n"
        [[quiesce]]
        mechanism = "command"
        argv = ["grep", "-x", "the right one"]
        [[verify]]
        mechanism = "command"
        argv = ["grep", "-x", "the right one"]
        proof = true
        [[release]]
        mechanism = "command"
        argv = ["true"]
        [[recover]]
        mechanism = "command"
        argv = ["true"]
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        """
    )
    cycle = here.start("run", "--json", policy)
    cycle.when("attempt_failed")
    path.write_text("the right one\n")
    assert cycle.wait() == 0, cycle.output
    assert here.reports()[0]["applications"][0]["attempts"] == 2


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
