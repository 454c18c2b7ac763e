"""mountinfo is read as proc(5) says, and each filesystem is frozen once, deepest first, / last."""

from __future__ import annotations

import pytest

from app.errors import HostUnfit
from app.host.mounts import Mount, parse_mountinfo, select
from app.plan import Freeze

AUTO = Freeze(enabled=True, mounts=(), skip=(), timeout=60)

TEXT = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
23 22 8:2 / /var rw,relatime shared:2 master:7 propagate_from:3 - xfs /dev/sda2 rw
24 23 8:3 / /var/lib/db rw - xfs /dev/mapper/vg-db rw
25 23 8:3 /sub /srv rw - xfs /dev/mapper/vg-db rw
26 22 0:21 / /proc rw - proc proc rw
27 22 0:40 / /run rw - tmpfs tmpfs rw
28 22 7:0 / /snap/core ro - squashfs /dev/loop0 ro
29 22 7:1 / /mnt/image rw - ext4 /dev/loop1 rw
30 22 0:50 / /net rw - nfs4 server:/export rw
31 22 0:51 / /merged rw - overlay overlay rw,lowerdir=/a
32 22 8:4 / /with\040space\011tab\012line\134slash rw - ext4 /dev/sda4 rw
33 22 8:5 / /read-only ro - ext4 /dev/sda5 ro
34 22 8:6 / /bound-read-only ro - ext4 /dev/sda6 rw
35 22 0:60 /vol1 /btr rw - btrfs /dev/sdb rw,subvol=/vol1
36 22 0:60 /vol2 /btr/deep rw - btrfs /dev/sdb rw,subvol=/vol2
garbage
37 22 8:9 / /boot/efi rw - vfat /dev/sda9 rw
"""


def paths(mounts: list[Mount]) -> list[str]:
    return [mount.path for mount in mounts]


def test_escapes_optional_fields_and_garbage() -> None:
    mounts = parse_mountinfo(TEXT)
    assert len(mounts) == 16
    assert mounts[10].path == "/with space\ttab\nline\\slash"
    assert (mounts[1].kind, mounts[1].source, mounts[1].device) == ("xfs", "/dev/sda2", "8:2")
    assert mounts[3].root == "/sub"


def test_bytes_that_are_not_utf8_survive() -> None:
    line = "40 1 8:7 / /caf\\303\\251\\377 rw - ext4 /dev/sdc rw"
    assert parse_mountinfo(line)[0].path == "/café\udcff"


def test_automatic_choice() -> None:
    chosen = paths(select(parse_mountinfo(TEXT), AUTO, frozenset({"8:4"})))
    # 8:3 is frozen once, by its shallower mount; loop, network, overlay, tmpfs, vfat and read-only are not.
    assert chosen == ["/bound-read-only", "/btr", "/srv", "/var", "/"]


def test_deepest_first_and_root_last() -> None:
    text = "\n".join(
        f"{n} 1 8:{n} / {path} rw - ext4 /dev/sd{n} rw"
        for n, path in enumerate(["/", "/a", "/a/b/c", "/a/b", "/z"])
    )
    assert paths(select(parse_mountinfo(text), AUTO)) == ["/a/b/c", "/a/b", "/a", "/z", "/"]


def test_skip_names_a_filesystem_by_any_of_its_mounts() -> None:
    freeze = Freeze(enabled=True, mounts=(), skip=("/var/lib/db/", "/"), timeout=60)
    chosen = paths(select(parse_mountinfo(TEXT), freeze))
    assert "/srv" not in chosen
    assert "/" not in chosen


def test_disabled_freezes_nothing() -> None:
    assert select(parse_mountinfo(TEXT), Freeze(enabled=False, mounts=("/var",), skip=(), timeout=60)) == []


def test_a_named_mount_is_taken_whatever_it_is() -> None:
    freeze = Freeze(enabled=True, mounts=("/mnt/image", "/srv", "/var/lib/db"), skip=(), timeout=60)
    assert paths(select(parse_mountinfo(TEXT), freeze)) == ["/mnt/image", "/srv"]


@pytest.mark.parametrize("path", ["/nowhere", "/var/lib", "/net", "/run", "/merged", "relative"])
def test_a_named_path_that_cannot_be_frozen(path: str) -> None:
    with pytest.raises(HostUnfit, match=r"freeze\.mounts"):
        select(parse_mountinfo(TEXT), Freeze(enabled=True, mounts=(path,), skip=(), timeout=60))


def test_of_two_mounts_on_one_path_the_later_counts() -> None:
    text = "1 0 8:1 / /x rw - ext4 /dev/sda rw\n2 0 8:2 / /x rw - xfs /dev/sdb rw"
    assert [m.device for m in select(parse_mountinfo(text), AUTO)] == ["8:2"]
