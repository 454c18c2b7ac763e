"""etcd with authentication: root by a password, and root by a certificate."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tests.integration.secrets import certificate
from tests.integration.secrets.certificate import ADDRESS, Certificate
from tests.integration.secrets.login import Login, Wanted
from tests.servers.daemon import free_port, private_folder, running, wait_for
from tests.servers.engines.etcd import USER, control, offline

_POLICY = """
extends = "etcd"
[settings]
connect = {connect}
data_dir = "{data}"
etcdutl = "{offline}"
"""


class Etcd(Login):
    """What both have in common."""

    client: ClassVar[str] = "etcdctl"
    session: ClassVar[bool] = False

    def missing(self) -> str:
        lacking = [name for name in ("etcd", "etcdctl") if shutil.which(name) is None]
        return f"needs {' and '.join(lacking)}" if lacking else certificate.missing()


@contextlib.contextmanager
def member(folder: Path, made: Certificate, canary: str) -> Iterator[tuple[list[str], Path]]:
    """A member over TLS whose user root has that password: options that reach it, and its data folder."""
    url, peer = f"https://{ADDRESS}:{free_port()}", f"http://127.0.0.1:{free_port()}"
    data = folder / "data"
    argv = ["etcd", f"--data-dir={data}", "--logger=zap", "--initial-cluster", f"default={peer}"]
    argv += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
    argv += [f"--cert-file={made.file}", f"--key-file={made.key}"]
    argv += [] if canary else [f"--trusted-ca-file={made.file}", "--client-cert-auth"]
    connect = [f"--endpoints={url}", f"--cacert={made.file}"]
    connect += [] if canary else [f"--cert={made.file}", f"--key={made.key}"]
    with running(argv, USER, folder / "log", cwd=folder) as process:
        wait_for(
            lambda: control("etcdctl", *connect, "endpoint", "health"),
            process,
            folder / "log",
            (subprocess.CalledProcessError,),
        )
        new = ["user", "add", "root", *(["--interactive=false"] if canary else ["--no-password"])]
        subprocess.run(
            ["etcdctl", *connect, *new], input=f"{canary}\n", text=True, check=True, capture_output=True
        )
        control("etcdctl", *connect, "user", "grant-role", "root", "root")
        control("etcdctl", *connect, "auth", "enable")
        yield connect, data


class ByPassword(Etcd):
    """etcdctl asks for it on its standard input."""

    name = "etcd-password"
    wrong: ClassVar[str] = "authentication failed, invalid user ID or password"
    short: ClassVar[bool] = True

    def canary(self) -> str:
        """``etcdctl user add`` takes no more than one word, when it reads from what is no terminal."""
        return super().canary().replace(" ", "_")

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        with private_folder("etcd", USER) as own:
            made = certificate.make(own, "server", USER)
            with member(own, made, canary) as (connect, data):
                policy = _POLICY.format(connect=[*connect, "--user=root"], data=data, offline=offline())
                yield Wanted(policy + '[command]\nstdin = "{password}\\n"\n', (own / "log",))


class ByCertificate(Etcd):
    """Its key stands in a file that only etcdctl's user may read."""

    name = "etcd-certificate"

    def missing(self) -> str:
        said = super().missing()
        return said or ("" if "--no-password" in control("etcdctl", "user", "add", "--help") else "too old")

    @contextlib.contextmanager
    def wanting(self, canary: str, folder: Path) -> Iterator[Wanted]:
        with private_folder("etcd", USER) as own:
            made = certificate.make(own, "root", USER)
            with member(own, made, "") as (connect, data):
                policy = _POLICY.format(connect=connect, data=data, offline=offline())
                yield Wanted(policy, (own / "log",), made.key.read_text().splitlines()[1])


LOGINS = (ByPassword(), ByCertificate())
