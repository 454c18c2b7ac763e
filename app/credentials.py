"""Reading the secrets of an application: when its keeper connects, into the memory of that process only.

Sources: systemd.exec(5), LoadCredential= and LoadCredentialEncrypted= (where credentials are looked for);
systemd-creds(1); prctl(2), PR_SET_DUMPABLE; kernel fs/coredump.c (a limit of 1 byte means that not even a
program that collects core dumps gets one).
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Mapping

from app import masking
from app.errors import HostUnfit, StillframeError
from app.host import trust
from app.host.process import Program
from app.mechanisms import Register, StepFailed, Waiter
from app.mechanisms.command import run
from app.plan import Secret

LARGEST = 1 << 16
"""Bytes of a secret."""

STORES = ("/etc", "/run", "/usr/local/lib", "/usr/lib")
"""Folders whose ``credstore.encrypted``, then whose ``credstore``, systemd looks into."""

_RLIMIT_CORE = 4  # include/uapi/asm-generic/resource.h
_PR_SET_DUMPABLE = 4  # include/uapi/linux/prctl.h


class Vault:
    """The secrets that an application's policy declares, as far as this process has read them."""

    def __init__(self, declared: Mapping[str, Secret]) -> None:
        self._declared = declared
        self._values: dict[str, str] = {}

    @property
    def names(self) -> frozenset[str]:
        """The names of all of them."""
        return frozenset(self._declared)

    @property
    def values(self) -> Mapping[str, str]:
        """Those that were read, by name."""
        return self._values

    def open(self, waiter: Waiter, register: Register, deadline: float) -> None:
        """Read what was not read yet. Raises HostUnfit, StepFailed, Abandoned.

        From then on they are masked, and neither this process nor any program that it starts leaves a
        core dump.
        """
        for name, secret in self._declared.items():
            if name not in self._values:
                _leave_no_core()
                value = _checked(_read(secret, waiter, register, deadline), f"the secret {name}")
                masking.remember(value)
                self._values[name] = value

    def forget(self) -> None:
        """Read them anew the next time: they may have been changed."""
        self._values.clear()


def _read(secret: Secret, waiter: Waiter, register: Register, deadline: float) -> bytes:
    if secret.file:
        return _from_file(secret.file)
    if secret.credential:
        return _from_systemd(secret.credential, waiter, register, deadline)
    return _from_program(secret.command, waiter, register, deadline)


def _from_file(path: str) -> bytes:
    """The bytes of a file that only its owner, root or we, can read. Raises HostUnfit."""
    descriptor = trust.open_trusted(path)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise HostUnfit(f"{path}: mode {mode:o}: others may read it", f"chmod 600 {path}")
        return trust.read_open(descriptor, path, LARGEST)
    finally:
        os.close(descriptor)


def _from_systemd(name: str, waiter: Waiter, register: Register, deadline: float) -> bytes:
    """A credential that our service was given, or that is stored for services. Raises HostUnfit."""
    given = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if given and os.path.lexists(f"{given}/{name}"):
        return _from_file(f"{given}/{name}")
    for store in STORES:
        path = f"{store}/credstore.encrypted/{name}"
        if os.path.lexists(path):
            os.close(trust.open_trusted(path))
            argv = ("systemd-creds", "decrypt", f"--name={name}", "--newline=no", path, "-")
            return _from_program(argv, waiter, register, deadline)
    for store in STORES:
        if os.path.lexists(f"{store}/credstore/{name}"):
            return _from_file(f"{store}/credstore/{name}")
    raise HostUnfit(
        f"there is no credential {name} of systemd",
        "put it into /etc/credstore, or encrypted into /etc/credstore.encrypted (systemd-creds encrypt)",
    )


def _from_program(argv: tuple[str, ...], waiter: Waiter, register: Register, deadline: float) -> bytes:
    """What a program prints. Raises HostUnfit, StepFailed, Abandoned."""
    program = Program(argv, "", {})
    try:
        output, status = run(program, "", waiter, register, deadline, errors=False)
    finally:
        program.close()
    if status != 0:
        # What it printed may be the secret, so not a word of it.
        raise StepFailed(f"{argv[0]} was to print a secret and ended with status {status}")
    return output.encode(errors="surrogateescape")


def _checked(data: bytes, what: str) -> str:
    """One line of text. Raises HostUnfit."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise HostUnfit(f"{what} is no text", "UTF-8, one line") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if any(ord(c) < 32 or c in "\x7f\x85\u2028\u2029\ufffd" for c in text):
        raise HostUnfit(f"{what} is more than one line, or holds what is no text", "UTF-8, one line")
    if len(text) < masking.SHORTEST:
        raise HostUnfit(f"{what} is shorter than {masking.SHORTEST} characters", "it could not be masked")
    return text


def _leave_no_core() -> None:
    """Neither we, nor the programs that we start from now on. Raises HostUnfit where that is not possible."""
    libc = ctypes.CDLL(None, use_errno=True)
    limits = (ctypes.c_ulong * 2)()
    if libc.getrlimit(_RLIMIT_CORE, limits) != 0:
        raise _refused("getrlimit")
    limits[0] = min(1, limits[1])
    if libc.setrlimit(_RLIMIT_CORE, limits) != 0:
        raise _refused("setrlimit")
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise _refused("prctl")


def _refused(call: str) -> StillframeError:
    return HostUnfit(f"{call}: {os.strerror(ctypes.get_errno())}", "a core dump could hold a secret")
