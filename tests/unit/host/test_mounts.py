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


def table(*places: str) -> str:
    """A table of ext4 filesystems, each mounted on the deepest of the earlier ones."""
    lines = []
    for number, path in enumerate(places, 1):
        above = max(
            (p for p in places if f"{path}/".startswith(f"{p.rstrip('/')}/") and p != path),
            key=len,
            default="",
        )
        parent = places.index(above) + 1 if above else 0
        lines.append(f"{number} {parent} 8:{number} / {path} rw - ext4 /dev/sd{number} rw")
    return "\n".join(lines)


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
    # 8:3 is frozen once, by the mount of the whole of it; loop, network, overlay, tmpfs, vfat and read-only
    # are not.
    assert chosen == ["/var/lib/db", "/bound-read-only", "/btr", "/var", "/"]


def test_deepest_first_and_root_last() -> None:
    text = table("/", "/a", "/a/b/c", "/a/b", "/z")
    assert paths(select(parse_mountinfo(text), AUTO)) == ["/a/b/c", "/a/b", "/a", "/z", "/"]


def test_skip_names_a_filesystem_by_any_of_its_mounts() -> None:
    freeze = Freeze(enabled=True, mounts=(), skip=("/var/lib/db/", "/"), timeout=60)
    chosen = paths(select(parse_mountinfo(TEXT), freeze))
    assert "/srv" not in chosen
    assert "/" not in chosen


SUSE = """1 0 0:30 /@/.snapshots/1/snapshot / rw - btrfs /dev/sda3 rw
2 1 0:30 /@/home /home rw - btrfs /dev/sda3 rw
3 1 0:30 /@/var /var rw - btrfs /dev/sda3 rw
4 1 8:2 / /srv rw - xfs /dev/sda2 rw
5 1 8:2 /pub /export/pub rw - xfs /dev/sda2 rw
6 1 8:2 / /mnt rw - xfs /dev/sda2 rw
"""


def test_a_filesystem_goes_by_root_or_by_the_whole_of_it() -> None:
    assert paths(select(parse_mountinfo(SUSE), AUTO)) == ["/mnt", "/"]


@pytest.mark.parametrize(
    ("skip", "frozen"),
    [
        ("/home", ["/mnt", "/"]),  # a part of what / shows
        ("/export/pub", ["/mnt", "/"]),
        ("/", ["/mnt"]),
        ("/srv", ["/"]),  # the whole, under another name
        ("/mnt/", ["/"]),
    ],
)
def test_skip_of_a_part_leaves_the_whole_in(skip: str, frozen: list[str]) -> None:
    freeze = Freeze(enabled=True, mounts=(), skip=(skip,), timeout=60)
    assert paths(select(parse_mountinfo(SUSE), freeze)) == frozen


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # Over the mount itself, and once more.
        ("2 1 8:2 / /a rw\n3 2 8:3 / /a rw\n4 3 8:4 / /a rw", ["8:4"]),
        # Over a folder on the way; what lies on what lies over is not hidden.
        ("2 1 8:2 / /a/b rw\n3 1 8:3 / /a rw\n4 3 8:4 / /a/b rw", ["8:4", "8:3"]),
        # What lies on a hidden one is hidden too.
        ("2 1 8:2 / /a rw\n3 2 8:3 / /a/b rw\n4 2 8:4 / /a rw", ["8:4"]),
        # Its name only begins alike.
        ("2 1 8:2 / /ab rw\n3 1 8:3 / /a rw", ["8:3", "8:2"]),
    ],
)
def test_what_no_path_leads_to_is_not_chosen(lines: str, expected: list[str]) -> None:
    text = "1 0 8:1 / / rw\n" + lines
    mounts = parse_mountinfo("\n".join(f"{line} - ext4 /dev/x rw" for line in text.split("\n")))
    assert [m.device for m in select(mounts, AUTO)] == [*expected, "8:1"]


def test_a_hidden_mount_does_not_hide_its_filesystem() -> None:
    text = (
        TEXT
        + "38 22 8:7 / /var/over rw - ext4 /dev/x rw\n39 23 8:3 / /var/lib rw - xfs /dev/mapper/vg-db rw\n"
    )
    chosen = select(parse_mountinfo(text), AUTO)
    assert "/var/lib" in paths(chosen)
    assert "/var/lib/db" not in paths(chosen)


def test_disabled_freezes_nothing() -> None:
    assert select(parse_mountinfo(TEXT), Freeze(enabled=False, mounts=("/var",), skip=(), timeout=60)) == []


def test_a_named_mount_is_taken_whatever_it_is() -> None:
    freeze = Freeze(enabled=True, mounts=("/mnt/image", "/srv", "/var/lib/db"), skip=(), timeout=60)
    assert paths(select(parse_mountinfo(TEXT), freeze)) == ["/var/lib/db", "/mnt/image"]
    freeze = Freeze(enabled=True, mounts=("/srv",), skip=(), timeout=60)
    assert paths(select(parse_mountinfo(TEXT), freeze)) == ["/srv"]


@pytest.mark.parametrize("path", ["/nowhere", "/var/lib", "/net", "/run", "/merged", "relative"])
def test_a_named_path_that_cannot_be_frozen(path: str) -> None:
    with pytest.raises(HostUnfit, match=r"freeze\.mounts"):
        select(parse_mountinfo(TEXT), Freeze(enabled=True, mounts=(path,), skip=(), timeout=60))


def test_of_two_mounts_on_one_path_the_later_counts() -> None:
    text = "1 0 8:1 / /x rw - ext4 /dev/sda rw\n2 0 8:2 / /x rw - xfs /dev/sdb rw"
    assert [m.device for m in select(parse_mountinfo(text), AUTO)] == ["8:2"]
