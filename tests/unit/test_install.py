"""All files or none, whatever fails and wherever it fails."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from app import install
from app.errors import Busy, HostUnfit
from app.files import File

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
NOBODY = 65534


@pytest.fixture
def image(tmp_path: Path) -> Path:
    place = tmp_path / "image"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    return place


def make_set(version: str) -> list[File]:
    return [
        File("/etc/azure/stillframe/manifest.json", 0o600, f"manifest {version}\n".encode()),
        File("/etc/azure/stillframe/pre.sh", 0o700, f"pre {version}\n".encode()),
        File("/etc/azure/config.json", 0o600, f"config {version}\n".encode()),
    ]


def tree(image: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(image)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(image.rglob("*"))
    }


EXPECTED = {
    "etc": (0o755, b""),
    "etc/azure": (0o755, b""),
    "etc/azure/config.json": (0o600, b"config 1\n"),
    "etc/azure/stillframe": (0o700, b""),
    "etc/azure/stillframe/manifest.json": (0o600, b"manifest 1\n"),
    "etc/azure/stillframe/pre.sh": (0o700, b"pre 1\n"),
}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_writes_all_with_exact_modes_whatever_the_umask(image: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        written = install.write_set(str(image), make_set("1"))
    finally:
        os.umask(before)
    assert written == [file.path for file in make_set("1")]
    assert tree(image) == EXPECTED
    assert install.differences(str(image), make_set("1")) == []


def test_files_that_stand_are_left_untouched(image: Path) -> None:
    install.write_set(str(image), make_set("1"))
    path = image / "etc/azure/config.json"
    before = path.stat()
    changed = [*make_set("1")[:2], File("/etc/azure/config.json", 0o600, b"config 1\n")]
    changed[1] = File("/etc/azure/stillframe/pre.sh", 0o700, b"pre 2\n")
    assert install.write_set(str(image), changed) == ["/etc/azure/stillframe/pre.sh"]
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_wrong_mode_is_written_anew(image: Path) -> None:
    install.write_set(str(image), make_set("1"))
    (image / "etc/azure/stillframe/pre.sh").chmod(0o755)
    assert install.write_set(str(image), make_set("1")) == ["/etc/azure/stillframe/pre.sh"]
    assert tree(image) == EXPECTED


def test_manifest_is_renamed_last(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = os.rename

    def rename(source: str, target: str, **where: int) -> None:
        order.append(target)
        real(source, target, **where)

    monkeypatch.setattr(os, "rename", rename)
    install.write_set(str(image), make_set("1"))
    assert order == ["pre.sh", "config.json", "manifest.json"]


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod", "rename", "link", "open"])
@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_any_failing_call_changes_nothing(
    image: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: int
) -> None:
    install.write_set(str(image), make_set("1"))
    real = getattr(os, call)
    count = 0

    def fail(*args: object, **options: object) -> object:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(code, os.strerror(code))
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        message = ""
        try:
            install.write_set(str(image), make_set("2"))
        except HostUnfit as error:
            message = error.message
    failed = bool(message)
    assert "\n" not in message
    assert failed == (count >= number)
    if failed:
        assert tree(image) == EXPECTED


@pytest.mark.parametrize("number", range(1, 4))
def test_failing_rename_of_a_first_set_leaves_no_trace(
    image: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.rename
    count = 0

    def rename(source: str, target: str, **where: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(errno.EIO, "I/O error")
        real(source, target, **where)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(HostUnfit, match="I/O error; nothing was changed"):
        install.write_set(str(image), make_set("1"))
    assert tree(image) == {}


def test_filesystem_without_hard_links(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install.write_set(str(image), make_set("1"))

    def link(*args: object, **options: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    install.write_set(str(image), make_set("2"))
    install.write_set(str(image), make_set("1"))
    assert tree(image) == EXPECTED


class Died(BaseException):
    """Stands for SIGKILL: nothing is undone after it."""


@pytest.mark.parametrize("number", range(1, 7))
def test_crash_leaves_whole_files_and_the_next_run_cleans_up(
    image: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    install.write_set(str(image), make_set("1"))
    count = 0

    def dying(real: object) -> object:
        def call(*args: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count >= number:
                raise Died
            return real(*args, **options)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        for name in ("link", "rename"):
            patch.setattr(os, name, dying(getattr(os, name)))
        patch.setattr(install, "_unlink", lambda folder, name: None)
        patch.setattr(install._Transaction, "_restore", lambda self, backup, slot: None)
        with pytest.raises(Died):
            install.write_set(str(image), make_set("2"))
    for file in make_set("1"):
        version = (image / file.path[1:]).read_bytes().split()[-1]
        assert version in (b"1", b"2")
    assert (image / "etc/azure/stillframe/manifest.json").read_bytes() == b"manifest 1\n"
    assert len(tree(image)) > len(EXPECTED)
    install.write_set(str(image), make_set("1"))
    assert tree(image) == EXPECTED


def test_removes_in_the_same_transaction(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = [*make_set("1"), File("/etc/azure/vmbackup.conf", 0o600, b"old")]
    install.write_set(str(image), former)
    with monkeypatch.context() as patch:
        real = os.rename
        patch.setattr(
            os,
            "rename",
            lambda source, target, **where: (
                real(source, target, **where) if target != "manifest.json" else os.close(-1)
            ),
        )
        with pytest.raises(HostUnfit):
            install.write_set(str(image), make_set("2"), remove=["/etc/azure/vmbackup.conf"])
    assert (image / "etc/azure/vmbackup.conf").read_bytes() == b"old"
    changed = install.write_set(str(image), make_set("1"), remove=["/etc/azure/vmbackup.conf", "/no/such"])
    assert changed == ["/etc/azure/vmbackup.conf"]
    assert tree(image) == EXPECTED


@pytest.mark.parametrize("what", ["link", "dangling", "folder", "fifo"])
def test_anything_but_a_file_at_the_target(image: Path, tmp_path: Path, what: str) -> None:
    install.write_set(str(image), make_set("1"))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = image / "etc/azure/config.json"
    target.unlink()
    if what == "folder":
        target.mkdir()
    elif what == "fifo":
        os.mkfifo(target)
    else:
        target.symlink_to(victim if what == "link" else tmp_path / "nowhere")
    before = tree(image)
    with pytest.raises(HostUnfit, match="where a file should be; nothing was changed"):
        install.write_set(str(image), make_set("2"))
    assert tree(image) == before
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_link_on_the_way_never_leads_out_of_the_image(image: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (image / "etc").symlink_to(outside)
    with pytest.raises(HostUnfit, match="symbolic link"):
        install.write_set(str(image), make_set("1"))
    assert list(outside.iterdir()) == []
    (line, *_) = install.differences(str(image), make_set("1"))
    assert "symbolic link" in line


def test_file_where_a_folder_should_be(image: Path) -> None:
    (image / "etc").write_text("a file")
    with pytest.raises(HostUnfit, match="is not a folder"):
        install.write_set(str(image), make_set("1"))
    assert (image / "etc").read_text() == "a file"


def test_folder_that_others_may_write_in(image: Path) -> None:
    azure = image / "etc/azure"
    azure.mkdir(parents=True, mode=0o755)
    azure.chmod(0o777)
    with pytest.raises(HostUnfit, match="others may write in it"):
        install.write_set(str(image), make_set("1"))
    assert list(azure.iterdir()) == []


def test_own_folder_becomes_private_again(image: Path) -> None:
    install.write_set(str(image), make_set("1"))
    (image / "etc/azure/stillframe").chmod(0o755)
    install.write_set(str(image), make_set("1"))
    assert tree(image) == EXPECTED


def test_somebody_elses_folder_of_our_name_keeps_its_mode(image: Path) -> None:
    theirs = [image / "etc/azure/stillframe", image / "opt/stillframe"]
    for folder in theirs:
        folder.mkdir(parents=True, mode=0o755)
    (theirs[1] / "manifest.json").write_text("theirs")
    script = File("/opt/stillframe/pre.sh", 0o700, b"pre\n")
    for _ in range(2):
        install.write_set(str(image), [*make_set("1"), script])
        assert stat.S_IMODE(theirs[1].stat().st_mode) == 0o755
        (theirs[0] / "manifest.json").unlink()
    install.write_set(str(image), make_set("2"), remove=[script.path])
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in theirs] == [0o755, 0o755]


@as_root
def test_file_of_another_user_is_written_anew(image: Path) -> None:
    install.write_set(str(image), make_set("1"))
    path = image / "etc/azure/config.json"
    os.chown(path, NOBODY, NOBODY)
    former = path.stat().st_ino
    assert install.differences(str(image), make_set("1")) == [
        f"{path}: owned by user {NOBODY} (mode 600), not by root"
    ]
    assert install.write_set(str(image), make_set("1")) == ["/etc/azure/config.json"]
    state = path.stat()
    assert (state.st_uid, state.st_gid) == (0, 0)
    # A new inode: whoever held the former one open for writing holds nothing now.
    assert state.st_ino != former


def test_second_writer_waits_and_then_says_so(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    install.write_set(str(image), make_set("1"))
    monkeypatch.setattr(install, "LOCK_SECONDS", 0.1)
    held = os.open(image / "etc/azure/stillframe", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy):
            install.write_set(str(image), make_set("2"))
    finally:
        os.close(held)
    assert tree(image) == EXPECTED


def test_differences_show_content_mode_and_what_is_missing(image: Path) -> None:
    install.write_set(str(image), make_set("1"))
    (image / "etc/azure/config.json").unlink()
    (image / "etc/azure/stillframe/pre.sh").write_bytes(b"pre \xff\n")
    (image / "etc/azure/stillframe/manifest.json").chmod(0o644)
    base = f"{image}/etc/azure"
    assert install.differences(str(image), make_set("1")) == [
        f"{base}/stillframe/manifest.json: mode 644, want 600",
        f"--- {base}/stillframe/pre.sh (on disk)",
        f"+++ {base}/stillframe/pre.sh (compiled)",
        "@@ -1 +1 @@",
        "-pre \\xff",
        "+pre 1",
        f"{base}/config.json: missing",
    ]


def test_last_newline_counts_as_a_difference(image: Path) -> None:
    install.write_set(str(image), make_set("1"))
    (image / "etc/azure/config.json").write_bytes(b"config 1")
    assert install.differences(str(image), make_set("1")) != []


def test_no_descriptor_is_left_open(image: Path) -> None:
    install.write_set(str(image), make_set("1"))
    before = len(os.listdir("/proc/self/fd"))
    install.write_set(str(image), make_set("2"))
    install.differences(str(image), make_set("1"))
    with pytest.raises(HostUnfit):
        install.write_set(str(image / "none"), make_set("2"))
    assert len(os.listdir("/proc/self/fd")) == before
