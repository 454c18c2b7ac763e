"""Which mounts a path leads to, held against the kernel's own word, in a mount namespace of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.root]

PILE = """\
set -e
cd "$1"
mkdir one two
mount -t tmpfs below one
mkdir one/deep
mount -t tmpfs below one/deep
mkdir one/deep/deeper
mount -t tmpfs below one/deep/deeper
mount -t tmpfs over one
mkdir one/deep
mount -t tmpfs beside one/deep
mount -t tmpfs again one
mount --bind one two
mount -t tmpfs over two
mkdir two/in
mount -t tmpfs in two/in
mount --rbind . one
exec "$2" -c "$3"
"""

COMPARE = """\
import json, os, re
from app.host.mounts import reachable, read_mounts
mounts = read_mounts()
led_to = []
for mount in mounts:
    try:
        descriptor = os.open(mount.path, os.O_PATH)
    except OSError:
        continue
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        if int(re.search(r"mnt_id:\\s*(\\d+)", file.read())[1]) == mount.identifier:
            led_to.append(mount.identifier)
    os.close(descriptor)
print(json.dumps([len(mounts), sorted(led_to), sorted(m.identifier for m in reachable(mounts))]))
"""


def test_reachable_is_what_the_kernel_finds(tmp_path: Path) -> None:
    argv = ["unshare", "--mount", "sh", "-c", PILE, "sh", str(tmp_path), sys.executable, COMPARE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    count, led_to, found = json.loads(done.stdout)
    assert found == led_to
    assert count - len(led_to) >= 6, "some are hidden, or nothing was shown"
