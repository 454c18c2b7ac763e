"""The Azure Backup extension's own freeze, re-created from what was measured and published of it.

    python extension_sequence.py LOCK MOUNT...        MOUNT in freezing order; nothing of ``app`` is used

What it does, in order, and where writers stand still meanwhile:

1. takes an fcntl lock on LOCK                                                      they go on
2. starts a thread, which waits 3 s and then starts the freezing program            they go on
3. that program opens every mount, then freezes one after the other (FIFREEZE),     they wait, from the
   without a sync before, and sends its parent SIGUSR1                                first FIFREEZE on
4. the parent looks for that signal every 2 s, counted from step 2: at 2, 4, 6 s.   they wait for the rest
   The sleep of a Python 3 program is not cut short by a handler (PEP 475)            of those 2 s
5. the snapshot. Here it takes no time, as with ``app run``'s provider "none"       they would wait
6. the parent sends SIGUSR1. The program sleeps a second at a time, but a           they wait some 0.1 ms
   signal ends a sleep of C's: here sigtimedwait(2) does the same
7. the program thaws the mounts, the last frozen first, and ends                    they go on, one by one
8. the parent looks for its end every second; the lock is released                  they go on

So the 3 s of step 2 and the seconds of step 8 are never in the freeze, and of step 4 what is left of 2 s is.
With a freeze of no length the program begins at 3 s and the parent looks at 4 s: writers wait 1 s. One that
takes between 1 and 3 s makes it 3 s, and so on. This favours the extension where it can: our freezing
program is started in ten milliseconds or more, which shorten the wait of step 4, and it logs nothing while
it is frozen.

Source: the public extension (github.com/Azure/azure-linux-extensions, VMBackup: its freeze and thaw, and its
program ``safefreeze``), as read and measured; none of its code.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

FIFREEZE = 0xC0045877  # include/uapi/linux/fs.h
FITHAW = 0xC0045878

BEFORE_START = 3.0
LOOK = 2.0
PATIENCE = 66.0
"""Seconds that the parent waits for the signal."""

LONGEST = 60
"""Seconds that the program holds a freeze of which it hears nothing more."""

END_LOOK = 1.0


def program(mounts: list[str]) -> int:
    """The freezing program: freeze all, tell the parent, wait to be told, thaw all."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    status = 0
    descriptors: list[int] = []
    try:
        descriptors += [os.open(mount, os.O_RDONLY | os.O_NONBLOCK) for mount in mounts]
        for descriptor in descriptors:
            fcntl.ioctl(descriptor, FIFREEZE, 0)
        os.kill(os.getppid(), signal.SIGUSR1)
        told = any(signal.sigtimedwait({signal.SIGUSR1}, 1.0) for _ in range(LONGEST))
        status = 0 if told else 1
    except OSError as error:
        print(error, file=sys.stderr)
        status = 1
    for descriptor in reversed(descriptors):
        try:
            fcntl.ioctl(descriptor, FITHAW, 0)
        except OSError:
            status = 1
    return status


def sequence(lock: str, mounts: list[str]) -> int:
    """The parent's side; 0 if all was frozen, and thawed when asked."""
    heard: list[int] = []
    started: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    argv = [sys.executable, "-I", "-S", __file__, "--program", *mounts]

    def start() -> None:
        time.sleep(BEFORE_START)
        started.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))

    with open(lock, "w", encoding="ascii") as held:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        threading.Thread(target=start).start()
        for _ in range(int(PATIENCE / LOOK)):
            if heard or (started and started[0].poll() is not None):
                break
            time.sleep(LOOK)
        if not started:
            return 1
        if heard:
            started[0].send_signal(signal.SIGUSR1)
        else:
            started[0].terminate()
        while started[0].poll() is None:
            time.sleep(END_LOOK)
        return started[0].returncode or int(not heard)


if __name__ == "__main__":
    if sys.argv[1] == "--program":
        sys.exit(program(sys.argv[2:]))
    sys.exit(sequence(sys.argv[1], sys.argv[2:]))
