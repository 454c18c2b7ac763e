"""What is installed is ours, all of it is remembered, and only that is taken back."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app import deployment
from app.cli import install as install_module
from app.cli import uninstall as uninstall_module
from app.deployment import MANIFEST, Completions
from app.errors import Busy, HostUnfit, Misused
from app.files import File
from app.journal import Journal

BINARY = "/usr/local/bin/app"
PAGES = {"app.1": "a page\n", "app-run.1": "another\n"}
COMPLETIONS = Completions("bash\n", "zsh\n", "fish\n")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    place = tmp_path / "image"
    place.mkdir()
    place.chmod(0o755)
    return place


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What runs is a built binary, as far as anybody can see."""
    path = tmp_path / "downloaded"
    path.write_bytes(b"\x7fELF, the first release")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def files(binary: str = BINARY, program: bytes = b"1", pages: dict[str, str] = PAGES) -> list[File]:
    return [File(binary, 0o755, program), *deployment.companions(binary, pages, COMPLETIONS)]


def put(image: Path, wanted: Sequence[File], binary: str = BINARY) -> deployment.Change:
    change = deployment.plan_install(str(image), binary, "1.0", wanted)
    deployment.install(str(image), change)
    return change


def take(image: Path) -> deployment.Removal:
    removal = deployment.plan_removal(str(image))
    assert removal is not None
    deployment.remove(str(image), removal)
    return removal


def tree(place: Path) -> dict[str, tuple[int, bytes]]:
    return {
        f"/{path.relative_to(place)}": (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in sorted(place.rglob("*"))
    }


def app(module: object, *arguments: str | Path) -> Result:
    return CliRunner().invoke(module.command, [str(a) for a in arguments])  # type: ignore[attr-defined] # a command module


def test_everything_stands_at_its_place_with_its_mode(image: Path) -> None:
    put(image, files())
    found = {path: mode for path, (mode, _) in tree(image).items() if (image / path[1:]).is_file()}
    assert found == {
        "/usr/lib/systemd/system/multi-user.target.d/stillframe.conf": 0o644,
        "/usr/lib/systemd/system/stillframe-recover.service": 0o644,
        "/usr/lib/tmpfiles.d/stillframe.conf": 0o644,
        "/usr/local/bin/app": 0o755,
        "/usr/local/share/bash-completion/completions/app": 0o644,
        "/usr/local/share/man/man1/app-run.1": 0o644,
        "/usr/local/share/man/man1/app.1": 0o644,
        "/usr/local/share/stillframe/installed.json": 0o600,
        "/usr/local/share/zsh/site-functions/_app": 0o644,
        "/usr/share/fish/vendor_completions.d/app.fish": 0o644,
    }


@pytest.mark.parametrize(
    ("binary", "debian", "expected"),
    [
        ("/usr/bin/app", False, "/usr/share/zsh/site-functions/_app"),
        ("/usr/bin/app", True, "/usr/share/zsh/vendor-completions/_app"),
        ("/opt/tools/vmapp", True, "/usr/share/zsh/vendor-completions/_vmapp"),
        ("/usr/local/bin/app", True, "/usr/local/share/zsh/site-functions/_app"),
    ],
)
def test_what_belongs_to_the_binary_follows_it(binary: str, debian: bool, expected: str) -> None:
    found = {file.path: file for file in deployment.companions(binary, PAGES, COMPLETIONS, debian=debian)}
    assert expected in found
    unit = found["/usr/lib/systemd/system/stillframe-recover.service"].content.decode()
    assert f"\nExecStart={binary} recover\n" in unit


def test_nothing_written_knows_when_or_where(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    other.chmod(0o755)
    put(image, files())
    put(other, files())
    assert tree(image) == tree(other)


def test_installing_twice_changes_nothing(image: Path) -> None:
    put(image, files())
    before = {path: (image / path[1:]).lstat().st_mtime_ns for path in tree(image)}
    change = deployment.plan_install(str(image), BINARY, "1.0", files())
    assert (change.write, change.remove, change.altered, change.keep) == ((), (), (), ())
    assert deployment.install(str(image), change) == []
    assert {path: (image / path[1:]).lstat().st_mtime_ns for path in tree(image)} == before


def test_a_newer_release_replaces_the_older(image: Path) -> None:
    put(image, files(pages={**PAGES, "app-gone.1": "was a command\n"}))
    change = put(image, files(program=b"2"))
    assert change.write == (BINARY, MANIFEST)
    assert change.remove == ("/usr/local/share/man/man1/app-gone.1",)
    assert (image / "usr/local/bin/app").read_bytes() == b"2"
    assert not (image / "usr/local/share/man/man1/app-gone.1").exists()
    take(image)
    assert tree(image) == {}


def test_another_place_leaves_nothing_at_the_first(image: Path) -> None:
    put(image, files())
    put(image, files("/opt/tools/app"), "/opt/tools/app")
    names = {path for path in tree(image) if path.startswith("/usr/local")}
    assert names == {"/usr/local", "/usr/local/share", "/usr/local/share/stillframe", MANIFEST}
    take(image)
    assert tree(image) == {}


def test_a_file_that_is_not_ours_is_never_replaced(image: Path) -> None:
    (image / "usr/local/bin").mkdir(parents=True, mode=0o755)
    (image / "usr/local/bin/app").write_bytes(b"another program of this name")
    before = tree(image)
    with pytest.raises(HostUnfit, match=r"/usr/local/bin/app: not one of ours; nothing was changed"):
        put(image, files())
    assert tree(image) == before


def test_a_copy_of_ours_by_hand_is_taken_over(image: Path) -> None:
    (image / "usr/local/bin").mkdir(parents=True, mode=0o755)
    (image / "usr/local/bin/app").write_bytes(b"1")
    (image / "usr/local/bin/app").chmod(0o700)
    put(image, files())
    assert stat.S_IMODE((image / "usr/local/bin/app").stat().st_mode) == 0o755
    take(image)
    # These folders were there before us.
    assert set(tree(image)) == {"/usr", "/usr/local", "/usr/local/bin"}


def test_what_was_changed_since_is_replaced_by_install_which_says_so(image: Path) -> None:
    put(image, files())
    (image / "usr/lib/tmpfiles.d/stillframe.conf").write_text("d /somewhere")
    change = put(image, files())
    assert change.altered == ("/usr/lib/tmpfiles.d/stillframe.conf",)
    assert "0700 root" in (image / "usr/lib/tmpfiles.d/stillframe.conf").read_text()


def test_what_was_changed_since_is_kept_by_uninstall(image: Path) -> None:
    put(image, files())
    page = image / "usr/local/share/man/man1/app.1"
    page.write_text("an operator's own page")
    (image / "usr/local/share/zsh/site-functions/_app").unlink()
    link = image / "usr/lib/tmpfiles.d/stillframe.conf"
    link.unlink()
    link.symlink_to("/dev/null")
    (image / "usr/local/bin/other").write_text("somebody else's")
    removal = take(image)
    assert removal.keep == ("/usr/lib/tmpfiles.d/stillframe.conf", "/usr/local/share/man/man1/app.1")
    assert removal.missing == ("/usr/local/share/zsh/site-functions/_app",)
    assert {path for path in tree(image) if not (image / path[1:]).is_dir()} == {
        "/usr/lib/tmpfiles.d/stillframe.conf",
        "/usr/local/bin/other",
        "/usr/local/share/man/man1/app.1",
    }


def test_a_file_of_an_older_release_that_was_changed_is_kept(image: Path) -> None:
    put(image, files(pages={**PAGES, "app-gone.1": "was a command\n"}))
    (image / "usr/local/share/man/man1/app-gone.1").write_text("mine")
    assert put(image, files()).keep == ("/usr/local/share/man/man1/app-gone.1",)
    assert (image / "usr/local/share/man/man1/app-gone.1").read_text() == "mine"


@pytest.mark.parametrize("folder", ["usr", "usr/local/share/man", "usr/lib/systemd/system"])
def test_no_link_leads_out_of_an_image(image: Path, tmp_path: Path, folder: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (image / folder).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    (image / folder).symlink_to(outside)
    with pytest.raises(HostUnfit, match="is a symbolic link"):
        put(image, files())
    assert list(outside.iterdir()) == []
    assert not (image / "usr/local/bin").exists()


def test_uninstall_follows_no_link_out_of_an_image(image: Path, tmp_path: Path) -> None:
    put(image, files())
    man = image / "usr/local/share/man"
    man.rename(tmp_path / "man")
    man.symlink_to(tmp_path / "man")
    with pytest.raises(HostUnfit, match="is a symbolic link"):
        deployment.plan_removal(str(image))
    assert (tmp_path / "man/man1/app.1").exists()


@pytest.mark.parametrize("number", range(1, 9))
def test_an_uninstall_that_was_cut_short_can_be_run_again(
    image: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    put(image, files())
    real, count = os.unlink, 0

    def fail(*args: object, **options: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(errno.EROFS, "Read-only file system")
        real(*args, **options)  # type: ignore[arg-type] # passed on

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        with pytest.raises(HostUnfit, match="cannot be removed: Read-only"):
            take(image)
    assert take(image).keep == ()
    assert tree(image) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"release": "1", "binary": "/a", "files": {"/a": {}}, "folders": []}',
        b'{"release": "1", "binary": "/a", "folders": [], "files": {"/b/../a": {"mode": "7", "sha256": ""}}}',
        b'{"release": "1", "binary": "/a", "files": {}, "folders": ["etc"]}',
        b'{"release": "1", "binary": 1, "files": {}, "folders": []}',
    ],
)
def test_a_damaged_manifest_removes_nothing(image: Path, content: bytes) -> None:
    put(image, files())
    (image / MANIFEST[1:]).write_bytes(content)
    before = tree(image)
    with pytest.raises(HostUnfit, match="not a manifest that this release can read"):
        deployment.plan_removal(str(image))
    assert tree(image) == before


def test_a_manifest_that_others_could_have_written_removes_nothing(image: Path) -> None:
    put(image, files())
    (image / MANIFEST[1:]).chmod(0o622)
    with pytest.raises(HostUnfit, match="mode 622, want 600"):
        deployment.plan_removal(str(image))


# --- the commands ------------------------------------------------------------------------------------


def test_the_running_binary_is_installed_and_removed(image: Path, binary: Path) -> None:
    result = app(install_module, "--root", image)
    assert result.exit_code == 0, result.output
    assert f"wrote {image}/usr/local/bin/app\n" in result.output
    assert (image / "usr/local/bin/app").read_bytes() == binary.read_bytes()
    assert (image / "usr/local/share/man/man1/app-compile.1").is_file()
    again = app(install_module, "--root", image)
    assert f"{image}/usr/local/bin/app: nothing to change\n" in again.output
    gone = app(uninstall_module, "--root", image)
    assert gone.exit_code == 0, gone.output
    assert f"removed {image}/usr/local/bin/app\n" in gone.output
    assert tree(image) == {}
    nothing = app(uninstall_module, "--root", image)
    assert (nothing.exit_code, nothing.output) == (0, f"{image}: nothing is installed\n")


def test_json_says_the_same(image: Path, binary: Path) -> None:
    first = json.loads(app(install_module, "--root", image, "--json").output)
    assert MANIFEST in first["changed"]
    assert {file["path"] for file in first["files"]} == set(first["changed"])
    assert json.loads(app(install_module, "--root", image, "--json").output)["changed"] == []
    (image / "usr/local/bin/app").write_bytes(b"mine")
    result = app(uninstall_module, "--root", image, "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["kept"] == ["/usr/local/bin/app"]
    assert set(found["removed"]) == set(first["changed"]) - {"/usr/local/bin/app"}


def test_a_dry_run_changes_nothing(image: Path, binary: Path) -> None:
    result = app(install_module, "--root", image, "--dry-run")
    assert (result.exit_code, tree(image)) == (0, {})
    assert f"would write {image}/usr/local/bin/app\n" in result.output
    app(install_module, "--root", image)
    before = tree(image)
    result = app(uninstall_module, "--root", image, "--dry-run", "--purge")
    assert (result.exit_code, tree(image)) == (0, before)
    assert f"would remove {image}/usr/local/bin/app\n" in result.output


def test_a_source_tree_says_what_can_be_installed(image: Path) -> None:
    error = app(install_module, "--root", image).exception
    assert isinstance(error, HostUnfit)
    assert "only the built binary" in error.message
    assert "make binary" in error.hint
    assert tree(image) == {}


@pytest.mark.parametrize("place", ["app", "/usr//bin/app", "/usr/../app", "/a b/app", "/app%", "/", "/app\n"])
def test_a_place_that_systemd_or_a_shell_would_misread_is_refused(
    image: Path, binary: Path, place: str
) -> None:
    assert isinstance(app(install_module, "--root", image, "--to", place).exception, Misused)


def test_an_image_that_is_no_folder_is_refused(binary: Path) -> None:
    for module in (install_module, uninstall_module):
        assert isinstance(app(module, "--root", binary).exception, Misused)


def test_reports_stay_unless_purged(image: Path, binary: Path) -> None:
    for folder in ("var/lib/stillframe/reports", "var/log/stillframe"):
        (image / folder).mkdir(parents=True)
    (image / "var/lib/stillframe/reports/000001.json").write_text("{}")
    outside = image / "outside"
    outside.mkdir()
    (image / "var/log/stillframe/link").symlink_to(outside)
    app(install_module, "--root", image)
    assert app(uninstall_module, "--root", image).exit_code == 0
    assert (image / "var/lib/stillframe/reports/000001.json").exists()
    assert app(uninstall_module, "--root", image, "--purge").exit_code == 0
    assert set(tree(image)) == {"/outside", "/var", "/var/lib", "/var/log"}


def test_scripts_that_still_call_it_are_named(image: Path, binary: Path) -> None:
    app(install_module, "--root", image)
    folder = image / "etc/azure/stillframe"
    folder.mkdir(parents=True)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"binary": BINARY, "files": {}}))
    manifest.chmod(0o600)
    output = app(uninstall_module, "--root", image).output
    assert f"note: the framework's scripts still call {BINARY}" in output
    assert manifest.exists()


def test_nothing_is_removed_during_a_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run/stillframe"
    run.mkdir(parents=True)
    monkeypatch.setenv("STILLFRAME_PREFIX", str(tmp_path))
    with open(run / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert isinstance(app(uninstall_module).exception, Busy)
    assert run.is_dir()


def test_nothing_is_removed_while_something_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run/stillframe"
    run.mkdir(parents=True)
    monkeypatch.setenv("STILLFRAME_PREFIX", str(tmp_path))
    notes = Journal(str(run / "journal"))
    notes.note("begin", kind="run")
    notes.note("frozen", mount="/srv")
    notes.close()
    error = app(uninstall_module).exception
    assert isinstance(error, HostUnfit)
    assert error.hint == "run 'app recover' first"
    assert run.is_dir()
