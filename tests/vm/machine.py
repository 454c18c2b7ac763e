"""A VM under qemu's software emulation: started, asked, cut off, its disks snapshotted from outside.

Three lines lead into it, each a virtio-serial port: ``agent`` runs scripts, ``ledger`` tells what was
committed, ``host`` is how the guest asks for a snapshot. This side listens and qemu connects, so that
nothing said early is lost.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vm.image import Image

BOOT_SECONDS = 180.0
"""Far more than a boot takes: the machine may be busy with other tests."""

DISKS = ("root", "data")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a script ended in the guest, and all that it printed."""

    status: int
    output: str

    def checked(self) -> str:
        """The output. Raises AssertionError where the script failed."""
        assert self.status == 0, f"status {self.status}: {self.output}"
        return self.output


@dataclass(slots=True)
class Pending:
    """A script that runs in the guest."""

    script: str
    seconds: float
    _answers: queue.Queue[Answer] = field(default_factory=queue.Queue)

    def settle(self, answer: Answer) -> None:
        """The guest has answered."""
        self._answers.put(answer)

    def answered(self) -> bool:
        """Whether ``wait`` returns at once."""
        return not self._answers.empty()

    def wait(self) -> Answer:
        """How it ended. Raises AssertionError where the guest does not answer at all."""
        try:
            return self._answers.get(timeout=self.seconds + 30)
        except queue.Empty:
            raise AssertionError(f"the guest never answered to: {self.script}") from None


class Disks:
    """The disks of one VM: overlays over what it was started from, and the snapshots between them."""

    def __init__(self, folder: Path, below: dict[str, Path], kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self.tops: dict[str, Path] = {}
        for name, base in below.items():
            self.tops[name] = folder / f"{name}.qcow2"
            how = "raw" if base.suffix == ".img" else "qcow2"
            argv = [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                how,
                "-b",
                str(base),
                str(self.tops[name]),
            ]
            subprocess.run(argv, check=True)


class Machine:
    """One run of a VM, from power on to power off. Made by ``start``."""

    def __init__(self, image: Image, disks: Disks, memory: int = 512) -> None:
        self.disks = disks
        self.ledger: list[tuple[int, float]] = []
        self.requests: queue.Queue[str] = queue.Queue()
        self._pending: dict[str, Pending] = {}
        self._numbers = itertools.count(1)
        self._hello = threading.Event()
        self._snapshots = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self._console = disks.folder / "console"
        ports = {"agent": self._heed_agent, "ledger": self._heed_ledger, "host": self._heed_host}
        self._lines: dict[str, socket.socket] = {}
        listeners = {name: self._listen(disks.folder / name) for name in (*ports, "qmp")}
        argv = self._argv(image, memory, list(ports))
        begun = time.monotonic()
        with (disks.folder / "qemu").open("w") as said:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        self._stack.callback(self.cut)
        try:
            for name, listener in listeners.items():
                listener.settimeout(30)
                self._lines[name], _ = listener.accept()
                self._stack.callback(self._lines[name].close)
                listener.close()
            for name, heed in ports.items():
                threading.Thread(target=self._follow, args=(self._lines[name], heed), daemon=True).start()
            self._monitor = self._lines["qmp"].makefile("r", encoding="utf-8")
            self._monitor.readline()  # the greeting
            self.command("qmp_capabilities")
            assert self._hello.wait(BOOT_SECONDS), f"the VM did not boot:\n{self.console()}"
        except BaseException:
            self._stack.close()
            raise
        self.boot_seconds = time.monotonic() - begun

    def _listen(self, path: Path) -> socket.socket:
        path.unlink(missing_ok=True)
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(1)
        return listener

    def _argv(self, image: Image, memory: int, ports: list[str]) -> list[str]:
        # Ended with us, however we end. Not behind others: a guest that starves keeps no law of seconds.
        argv = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]
        # Of what the emulation could do, the little that it does quickest: no wide vectors, and no page
        # tables of the kernel's own. rdrand: the guest's random numbers are there from the start.
        argv += [
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "qemu64,+rdrand",
            "-smp",
            "2",
            "-m",
            str(memory),
        ]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        argv += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
        # The kernel's log has room for what the OOM killer says of every process that it looks at.
        told = f"console=ttyS0 quiet panic=-1 mitigations=off log_buf_len=4M stillframe.root={image.kind}"
        told += f" {image.parameters}"
        argv += ["-append", told]
        argv += ["-serial", f"file:{self._console}", "-device", "virtio-serial-pci"]
        for name, path in self.disks.tops.items():
            # What the guest has not flushed may stay in qemu and is lost with it, as in a power cut.
            argv += ["-drive", f"id={name},if=none,format=qcow2,cache=unsafe,file={path}"]
            argv += ["-device", f"virtio-blk-pci,drive={name}"]
        for port in ports:
            argv += ["-chardev", f"socket,id={port},path={self.disks.folder / port}"]
            argv += ["-device", f"virtserialport,chardev={port},name={port}"]
        argv += ["-chardev", f"socket,id=qmp,path={self.disks.folder / 'qmp'}", "-mon", "qmp,mode=control"]
        return argv

    # -- what the guest says ------------------------------------------------------------------

    def _follow(self, line: socket.socket, heed: Callable[[str], None]) -> None:
        with contextlib.suppress(OSError, ValueError), line.makefile("r", encoding="ascii") as file:
            for text in file:
                heed(text.rstrip("\n"))

    def _heed_agent(self, text: str) -> None:
        number, status, output = text.split(" ")
        if number == "hello":
            self._hello.set()
            return
        answer = Answer(int(status), base64.b64decode(output).decode(errors="replace"))
        self._pending.pop(number).settle(answer)

    def _heed_ledger(self, text: str) -> None:
        if text.isdigit():
            self.ledger.append((int(text), time.monotonic()))

    def _heed_host(self, text: str) -> None:
        self.requests.put(text)

    # -- what it is told ----------------------------------------------------------------------

    def start(self, script: str, seconds: float = 60) -> Pending:
        """Run a shell script in the guest, killed after ``seconds`` of the guest's time."""
        number = str(next(self._numbers))
        pending = self._pending[number] = Pending(script, seconds)
        text = base64.b64encode(script.encode()).decode()
        self._lines["agent"].sendall(f"{number} {seconds:.0f} {text}\n".encode())
        return pending

    def run(self, script: str, seconds: float = 60) -> Answer:
        """Run a shell script in the guest and wait for its end."""
        return self.start(script, seconds).wait()

    def write(self, path: str, text: str, mode: int = 0o600) -> None:
        """Make a file in the guest."""
        content = base64.b64encode(text.encode()).decode()
        self.run(f"echo {content} | base64 -d >{path} && chmod {mode:o} {path} && sync {path}").checked()

    def tell(self, text: str) -> None:
        """Answer what the guest asked its host."""
        self._lines["host"].sendall(f"{text}\n".encode())

    def asked(self, seconds: float = 300, during: Pending | None = None) -> str:
        """What the guest asks its host next.

        Raises AssertionError where nothing comes, or where the script that was to ask (``during``) ends.
        """
        give_up = time.monotonic() + seconds
        while True:
            with contextlib.suppress(queue.Empty):
                return self.requests.get(timeout=0.5)
            if during is not None:
                assert not during.answered(), f"it ended without asking: {during.wait()}"
            assert time.monotonic() < give_up, f"no request within {seconds} s\n{self.console()}"

    def wait_for_commits(self, more: int, seconds: float = 60) -> None:
        """Wait until the guest has acknowledged ``more`` further commits."""
        want, give_up = len(self.ledger) + more, time.monotonic() + seconds
        while len(self.ledger) < want:
            assert time.monotonic() < give_up, f"no {more} further commits within {seconds} s"
            time.sleep(0.02)

    # -- what is done to it from outside ------------------------------------------------------

    def command(self, name: str, **arguments: Any) -> Any:
        """One QMP command; its answer. Raises AssertionError where qemu refuses."""
        self._lines["qmp"].sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        for line in self._monitor:
            message = json.loads(line)
            assert "error" not in message, f"{name}: {message}"
            if "return" in message:
                return message["return"]
        raise AssertionError(f"qemu is gone: {self.console()}")

    def snapshot(self) -> dict[str, Path]:
        """All disks as they are at one instant, as the cloud's host takes them; files that stay so."""
        number = next(self._snapshots)
        taken, actions = dict(self.disks.tops), []
        for name in taken:
            top = self.disks.tops[name] = self.disks.folder / f"{name}-{number}.qcow2"
            data = {"device": name, "snapshot-file": str(top), "format": "qcow2"}
            actions.append({"type": "blockdev-snapshot-sync", "data": data})
        self.command("transaction", actions=actions)
        return taken

    def cut(self) -> None:
        """Power off, as by pulling the plug."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def powered_off(self, seconds: float = BOOT_SECONDS) -> float:
        """Wait until the guest has powered itself off; the seconds that it took."""
        begun = time.monotonic()
        self._process.wait(seconds)
        return time.monotonic() - begun

    def close(self) -> None:
        """Power off, and give back what was opened; the disks stay."""
        self._stack.close()

    def console(self) -> str:
        """The end of what qemu and the guest's kernel have said."""
        files = (self.disks.folder / "qemu", self._console)
        said = [f.read_text(encoding="utf-8", errors="replace")[-4000:] for f in files if f.exists()]
        return "\n".join(said)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder for disks and sockets, gone afterwards. A socket's name must be short."""
    below = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="sf-vm-", dir=below))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def booted(image: Image, below: dict[str, Path] | None = None) -> Iterator[Machine]:
    """A VM with new overlays over ``below`` (absent: the image's own disks), cut off at the end."""
    with folder() as place:
        disks = Disks(place, below or {"root": image.root, "data": image.data}, image.kind)
        machine = Machine(image, disks)
        try:
            yield machine
        finally:
            machine.close()
