"""dist/app installs itself into an image, and what it writes is what man, shells and systemd take."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ledger import ROOT

pytestmark = pytest.mark.integration

UNIT = "usr/lib/systemd/system/stillframe-recover.service"


@pytest.fixture
def binary() -> Path:
    built = ROOT / "dist" / "app"
    if not built.is_file():
        pytest.skip("needs dist/app (make binary)")
    return built


def make_image(place: Path) -> Path:
    """As much of a system as an installer may look at."""
    (place / "etc").mkdir(parents=True)
    (place / "etc/debian_version").write_text("13.0\n")
    (place / "usr/local/bin").mkdir(parents=True)
    (place / "usr/share/man/man1").mkdir(parents=True)
    (place / "usr/local/man").symlink_to("share/man")
    for folder in [place, *(path for path in place.rglob("*") if path.is_dir() and not path.is_symlink())]:
        folder.chmod(0o755)
    return place


def run(*arguments: str | Path, status: int = 0, **environ: str) -> str:
    done = subprocess.run(
        list(map(str, arguments)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def tree(place: Path) -> dict[str, tuple[int, int, str]]:
    """Everything below a folder: mode, owner, and a digest or where a link leads."""
    found = {}
    for path in sorted(place.rglob("*")):
        state = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(place))] = (state.st_mode, state.st_uid, content)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image")


@pytest.fixture
def installed(binary: Path, image: Path) -> Path:
    run(binary, "install", "--root", image)
    return image


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def test_after_uninstall_nothing_is_left(binary: Path, image: Path) -> None:
    before = tree(image)
    run(binary, "install", "--root", image)
    run(binary, "uninstall", "--root", image)
    assert tree(image) == before


def test_two_images_are_alike_and_hold_the_binary_itself(binary: Path, image: Path, tmp_path: Path) -> None:
    other = make_image(tmp_path / "other")
    run(binary, "install", "--root", image)
    # Installed from an image, at another time, in another time zone and language: the same bytes.
    run(image / "usr/local/bin/app", "install", "--root", other, TZ="Asia/Tokyo", LC_ALL="C", COLUMNS="40")
    assert tree(image) == tree(other)
    assert (image / "usr/local/bin/app").read_bytes() == binary.read_bytes()
    assert "nothing to change" in run(binary, "install", "--root", image)


def test_an_installed_binary_removes_itself(installed: Path) -> None:
    said = run(installed / "usr/local/bin/app", "uninstall", "--root", installed)
    assert f"removed {installed}/usr/local/bin/app\n" in said
    assert not (installed / "usr/local/bin/app").exists()


def test_packagers_get_the_same_files_from_the_tree(binary: Path, image: Path, tmp_path: Path) -> None:
    run(binary, "install", "--root", image, "--to", "/usr/bin/app")
    stage = tmp_path / "stage"
    run(ROOT / ".venv/bin/python", ROOT / "build/man.py", stage, "/usr/bin/app", "debian")
    staged = {path: facts for path, facts in tree(stage).items() if (stage / path).is_file()}
    assert len(staged) > 15
    assert all(tree(image)[path] == facts for path, facts in staged.items())


def test_man_finds_nothing_to_warn_about(installed: Path) -> None:
    needs("man", "groff", "lexgrog")
    pages = sorted((installed / "usr/local/share/man/man1").iterdir())
    assert len(pages) > 10
    for page in pages:
        shown = run("man", "--warnings", "-E", "UTF-8", "-l", page, LC_ALL="C.UTF-8", MANWIDTH="80")
        assert "warning" not in shown.split("NAME")[0]
        assert run("groff", "-ww", "-man", "-z", page) == ""
        assert run("lexgrog", page).startswith(f'{page}: "{page.stem} - ')


def test_bash_completes(installed: Path) -> None:
    needs("bash")
    script = installed / "usr/local/share/bash-completion/completions/app"
    ask = """
        . "$1"; compopt() { echo "files"; }
        COMP_WORDS=($2 "$3"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _app_completion app; echo "${COMPREPLY[*]}"
    """
    path = f"{installed}/usr/local/bin:{os.environ['PATH']}"

    def complete(words: str, incomplete: str) -> list[str]:
        return run("bash", "--norc", "-c", ask, "bash", script, words, incomplete, PATH=path).split()

    assert complete("app", "un") == ["uninstall"]
    assert complete("app compile", "--che") == ["--check"]
    assert complete("app compile", "orders") == ["files"]


def test_other_shells_and_systemd_accept_what_is_written(installed: Path) -> None:
    needs("systemd-analyze", "systemd-tmpfiles")
    for shell, script in (
        ("zsh", "usr/local/share/zsh/site-functions/_app"),
        ("fish", "usr/share/fish/vendor_completions.d/app.fish"),
    ):
        if shutil.which(shell):
            run(shell, "-n", installed / script)
    # The unit as it stands, with this machine's own units around it.
    unit = installed / "stillframe-recover.service"
    unit.write_text(
        (installed / UNIT).read_text().replace("/usr/local/bin/app", f"{installed}/usr/local/bin/app")
    )
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


@pytest.mark.root
def test_tmpfiles_makes_the_folder(installed: Path) -> None:
    needs("systemd-tmpfiles")
    (installed / "run").mkdir()
    (installed / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (installed / "etc/group").write_text("root:x:0:\n")
    run("systemd-tmpfiles", f"--root={installed}", "--create", "stillframe.conf")
    state = (installed / "run/stillframe").stat()
    assert (state.st_mode & 0o7777, state.st_uid) == (0o700, 0)


@pytest.mark.root
def test_all_that_is_installed_belongs_to_root(installed: Path) -> None:
    assert {uid for _, uid, _ in tree(installed).values()} == {0}


def test_the_source_tree_cannot_be_installed(image: Path) -> None:
    before = tree(image)
    said = run(ROOT / ".venv/bin/app", "install", "--root", image, status=4)
    assert said.startswith("error: only the built binary can install itself")
    assert tree(image) == before


def test_a_full_image_changes_nothing(binary: Path, on_tmpfs: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    image = on_tmpfs / "small"
    image.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "stillframe-test", image)
    try:
        make_image(image)
        before = tree(image)
        said = run(binary, "install", "--root", image, status=4)
        assert "no space is left on the filesystem; nothing was changed" in said
        assert tree(image) == before
    finally:
        run("umount", image)
