"""Every table that hazards are read from, as the kernel and the tools write it."""

from __future__ import annotations

import pytest

from app.host.hazards.logs import parse_rule, parse_settings
from app.host.hazards.ours import parse_meminfo
from app.host.hazards.processes import PERMISSION, Mark, parse_fdinfo, parse_stack
from app.host.hazards.scene import Process, parse_stat
from app.host.hazards.storage import overlay_folders, parse_exports

FDINFO = """pos:\t0
flags:\t02
mnt_id:\t17
ino:\t1038
fanotify flags:4 event-flags:8000
fanotify ino:2 sdev:700001 mflags:0 mask:30000 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:0200000000000000
fanotify sdev:fd00003 mflags:0 mask:38 ignored_mask:40000003
fanotify mnt_id:2a mflags:0 mask:10000 ignored_mask:0
fanotify mnt_id:zz mflags:0 mask:10000 ignored_mask:0
fanotify mnt_id:2b mflags:0 ma"""  # noqa: E501 - one line of the kernel's


def test_marks_of_a_fanotify_descriptor() -> None:
    assert parse_fdinfo(FDINFO) == [
        Mark(0, "7:1", 0x30000),
        Mark(0, "253:3", 0x38),
        Mark(0x2A, "0:0", 0x10000),
    ]
    assert [bool(mark.mask & PERMISSION) for mark in parse_fdinfo(FDINFO)] == [True, False, True]
    assert parse_fdinfo("") == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 (init) S 0 1 1", Process(1, "init", "S")),
        ("77 (a) (b c) D) D 1 2", Process(77, "a) (b c) D", "D")),
        ("77 (line\nbreak) R 1", Process(77, "line\nbreak", "R")),
        ("", None),
        ("77 (cut", None),
        ("x (y) S 1", None),
    ],
)
def test_the_head_of_stat(text: str, wanted: Process | None) -> None:
    assert parse_stat(text) == wanted


@pytest.mark.parametrize(
    ("calls", "waits"),
    [
        (["percpu_rwsem_wait", "vfs_write", "ksys_write"], True),
        (["percpu_rwsem_wait", "mnt_want_write", "path_openat"], True),
        (["percpu_rwsem_wait", "do_sys_ftruncate", "do_syscall_64"], True),  # journald
        (["percpu_rwsem_wait", "__percpu_down_read", "mnt_want_write_file", "do_fchmod"], True),
        (["percpu_rwsem_wait", "__percpu_down_read", "__sb_start_write", "vfs_write"], True),
        # A fork that waits for a control group, a disk that is slow, a server that waits for a client.
        (["percpu_rwsem_wait", "cgroup_can_fork", "copy_process"], False),
        (["io_schedule", "folio_wait_bit_common", "vfs_write"], False),
        (["vfs_write"], False),
        (["percpu_rwsem_wait"], False),
        ([], False),
    ],
)
def test_the_stack_of_who_waits_for_a_thaw(calls: list[str], waits: bool) -> None:
    assert parse_stack("".join(f"[<0>] {call}+0x15f/0x1d0\n" for call in calls)) is waits


def test_meminfo() -> None:
    text = "MemTotal:       16384 kB\nDirty:              12 kB\nActive(anon):  3 kB\nHugePages_Total:  7\n"
    assert parse_meminfo(text) == {"MemTotal": 16384 << 10, "Dirty": 12 << 10, "Active(anon)": 3 << 10}


def test_exports_of_every_kind() -> None:
    text = (
        "# /comment *(ro)\n/srv\t*(ro,sync) 10.0.0.0/8(rw)\n"
        '"/with space" host(ro)\n  /with\\040octal host\n/two \\\n  lines(rw)\n/srv other\n\nbad(rw)\n'
    )
    assert parse_exports(text) == ["/srv", "/with space", "/with octal", "/two"]
    kernel = "# Version 1.1\n# Path Client(Flags) # IPs\n/data\t*(rw,no_root_squash,sync)\n"
    assert parse_exports(kernel) == ["/data"]


def test_layers_of_an_overlay() -> None:
    options = frozenset({"rw", "lowerdir=l/ABC:/low\\040one:/low2", "upperdir=/up", "workdir=/work"})
    assert overlay_folders(options) == ["/low one", "/low2", "/up", "/work"]
    assert overlay_folders(frozenset({"lowerdir+=/a", "index=off"})) == ["/a"]


def test_settings_of_a_daemon() -> None:
    text = "# flush = none\n[Journal]\nFlush = SYNC\n;a=b\nlog_file=/a=b\nflush = data\nword\n"
    assert parse_settings(text) == {"flush": "data", "log_file": "/a=b"}


def test_numbers_of_the_audit_rules() -> None:
    rules = "-D\n-b 8192\n-f 1\n# -f 2\n-a always,exit -S execve -b 5\n"
    assert (parse_rule(rules, "-f"), parse_rule(rules, "-b"), parse_rule(rules, "-r")) == (1, 8192, None)
    assert parse_rule("-f 1\n -f  2 \n", "-f") == 2
