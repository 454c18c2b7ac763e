"""What root may run: owners, modes, folders, links, and that nothing hangs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.errors import Exit, HostUnfit
from app.host import trust

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "trusted"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    return place


def put(path: Path, mode: int = 0o600, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def kinds(path: Path | str, **options: bool | int | str) -> list[str]:
    return [flaw.kind for flaw in trust.findings(str(path), **options)]  # type: ignore[arg-type]


def test_reads_what_only_root_could_have_written(folder: Path) -> None:
    assert trust.read_trusted(str(put(folder / "plan.json")), 0o600) == b"content"


def test_descriptor_is_closed_on_exec(folder: Path) -> None:
    descriptor = trust.open_trusted(str(put(folder / "plan.json")))
    try:
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("mode", [0o400, 0o640, 0o604, 0o700, 0o4600, 0o1600])
def test_mode_is_exact_where_asked(folder: Path, mode: int) -> None:
    path = put(folder / "plan.json", mode)
    with pytest.raises(HostUnfit, match=f"mode {mode:o}, want 600") as caught:
        trust.open_trusted(str(path), mode=0o600)
    assert caught.value.hint == f"chmod 600 {path}"
    assert caught.value.status == Exit.HOST


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_no_write_for_others_where_no_mode_is_asked(folder: Path, mode: int) -> None:
    assert kinds(put(folder / "file", mode)) == [trust.WRITABLE]
    assert kinds(put(folder / "read", 0o644)) == []


def test_missing(folder: Path) -> None:
    assert kinds(folder / "nothing") == [trust.MISSING]
    assert kinds(folder / "nothing" / "below") == [trust.MISSING]


def test_fifo_neither_hangs_nor_passes(folder: Path) -> None:
    os.mkfifo(folder / "pipe", 0o600)
    assert kinds(folder / "pipe") == [trust.TYPE]


def test_device_and_folder_are_no_files(folder: Path) -> None:
    assert kinds("/dev/null") == [trust.TYPE]
    assert kinds(folder) == [trust.TYPE]


def test_link_at_the_end_or_on_the_way_is_refused(folder: Path) -> None:
    put(folder / "real")
    (folder / "link").symlink_to("real")
    (folder / "around").symlink_to(folder)
    assert kinds(folder / "link") == [trust.LINK]
    (flaw,) = trust.findings(str(folder / "around" / "real"))
    assert (flaw.kind, flaw.path, flaw.own) == (trust.LINK, str(folder / "around"), False)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_folder_that_others_may_write_in(folder: Path, mode: int) -> None:
    put(folder / "file")
    folder.chmod(mode)
    (flaw,) = trust.findings(str(folder / "file"))
    assert (flaw.kind, flaw.path, flaw.own) == (trust.WRITABLE, str(folder), False)
    assert flaw.repair == f"chmod go-w {folder}"


@as_root
def test_sticky_folder_holds_only_what_a_trusted_user_owns(folder: Path) -> None:
    folder.chmod(0o1777)
    path = put(folder / "file")
    assert kinds(path) == []
    os.chown(path, NOBODY, NOBODY)
    assert kinds(path) == [trust.OWNER]
    below = folder / "below"
    below.mkdir(mode=0o755)
    put(below / "file")
    os.chown(below, NOBODY, NOBODY)
    assert kinds(below / "file") == [trust.OWNER]


@as_root
def test_owner_of_file_and_of_every_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir(mode=0o755)
    path = put(inner / "file")
    os.chown(path, NOBODY, 0)
    os.chown(folder, NOBODY, 0)
    flaws = trust.findings(str(path))
    assert [(flaw.path, flaw.kind, flaw.own) for flaw in flaws] == [
        (str(folder), trust.OWNER, False),
        (str(path), trust.OWNER, True),
    ]
    assert flaws[1].repair == f"chown -h root:root {path}"


def test_second_name_is_seen_where_asked(folder: Path) -> None:
    path = put(folder / "file")
    os.link(path, folder / "other")
    assert kinds(path) == []
    assert kinds(path, single=True) == [trust.LINKS]


@pytest.mark.parametrize("path", ["relative", "/etc/../etc/passwd", "", "/etc/pass\0wd"])
def test_path_must_be_whole_and_plain(path: str) -> None:
    with pytest.raises(HostUnfit):
        trust.open_trusted(path)


def test_large_file_is_not_read(folder: Path) -> None:
    path = put(folder / "file", content=b"x" * 100)
    assert len(trust.read_trusted(str(path), max_bytes=100)) == 100
    with pytest.raises(HostUnfit, match="larger than 99 bytes"):
        trust.read_trusted(str(path), max_bytes=99)


def test_wrong_file_is_still_opened_for_a_look(folder: Path) -> None:
    descriptor, flaws = trust.examine(str(put(folder / "file", 0o666)), mode=0o600)
    assert trust.read_open(descriptor, "file") == b"content"
    os.close(descriptor)
    assert [flaw.kind for flaw in flaws] == [trust.MODE]


class TestProgram:
    def test_plain_and_through_links(self, folder: Path) -> None:
        real = folder / "lib"
        real.mkdir(mode=0o755)
        put(real / "psql", 0o755)
        (folder / "bin").symlink_to("lib")
        (folder / "psql").symlink_to("bin/../bin/psql")
        (folder / "whole").symlink_to(folder / "psql")
        for name in ("lib/psql", "bin/psql", "psql", "whole"):
            os.close(trust.open_program(str(folder / name)))

    def test_must_be_executable(self, folder: Path) -> None:
        with pytest.raises(HostUnfit, match="not executable"):
            trust.open_program(str(put(folder / "psql", 0o644)))

    def test_links_end(self, folder: Path) -> None:
        (folder / "a").symlink_to("b")
        (folder / "b").symlink_to("a")
        with pytest.raises(HostUnfit, match="more than 40 symbolic links"):
            trust.open_program(str(folder / "a"))

    def test_link_through_a_folder_of_others(self, folder: Path) -> None:
        wild = folder / "wild"
        wild.mkdir()
        wild.chmod(0o777)
        put(folder / "psql", 0o755)
        (wild / "psql").symlink_to("../psql")
        (folder / "entry").symlink_to("wild/psql")
        assert kinds(folder / "entry", program=True) == [trust.WRITABLE]

    @as_root
    def test_link_of_another_user(self, folder: Path) -> None:
        put(folder / "psql", 0o755)
        (folder / "link").symlink_to("psql")
        os.chown(folder / "link", NOBODY, NOBODY, follow_symlinks=False)
        assert kinds(folder / "link", program=True) == [trust.OWNER]

    def test_link_stays_inside_an_image(self, folder: Path) -> None:
        image = folder / "image"
        (image / "opt").mkdir(parents=True, mode=0o755)
        put(image / "opt" / "app", 0o755)
        (image / "app").symlink_to("/opt/app")
        (image / "up").symlink_to("../../../../opt/app")
        os.close(trust.open_program("/app", root=str(image)))
        os.close(trust.open_program("/up", root=str(image)))


def test_image_walk_never_leaves_the_image(folder: Path) -> None:
    image = folder / "image"
    image.mkdir(mode=0o755)
    (image / "etc").symlink_to("/etc")
    assert kinds("/etc/passwd", root=str(image)) == [trust.LINK]


def test_no_descriptor_is_left_open(folder: Path) -> None:
    path = put(folder / "file", 0o755)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        trust.findings(str(path), mode=0o600)
        trust.findings(str(path), program=True)
        trust.findings(str(folder / "missing" / "below"))
        trust.findings(str(folder), folder=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_repair_command_is_quoted(folder: Path) -> None:
    path = put(folder / "it's; rm", 0o666)
    (flaw,) = trust.findings(str(path))
    assert flaw.repair == "chmod go-w '" + str(path).replace("'", "'\\''") + "'"
