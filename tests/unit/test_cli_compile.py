from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import compile as compile_module
from app.cli import explain, validate
from app.errors import HostUnfit, Misused, PolicyInvalid
from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.custom("orders", "[freeze]\nskip = ['/mnt/x']")
    return made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    # Below a folder of ours: whoever checks trust accepts no part of the way that others may write.
    path = tmp_path / "image"
    path.mkdir(mode=0o755)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(compile_module.command, [str(a) for a in arguments])


def test_writes_the_set_below_an_image(folder: Folder, image: Path) -> None:
    result = run(*folder.files, "--root", image)
    assert result.exit_code == 0, result.output
    modes = {str(p.relative_to(image)): p.stat().st_mode & 0o7777 for p in image.rglob("*") if p.is_file()}
    assert modes == {
        "etc/azure/VMSnapshotScriptPluginConfig.json": 0o600,
        "etc/azure/vmbackup.conf": 0o600,
        "etc/azure/stillframe/manifest.json": 0o600,
        "etc/azure/stillframe/plan.json": 0o600,
        "etc/azure/stillframe/post.sh": 0o700,
        "etc/azure/stillframe/pre.sh": 0o700,
    }
    config = json.loads((image / "etc/azure/VMSnapshotScriptPluginConfig.json").read_text())
    assert config["preScriptLocation"] == "/etc/azure/stillframe/pre.sh"


def test_check_writes_nothing_and_shows_the_difference(folder: Folder, image: Path) -> None:
    result = run(*folder.files, "--root", image, "--check")
    assert result.exit_code == 1
    assert not list(image.iterdir())
    assert run(*folder.files, "--root", image).exit_code == 0
    assert run(*folder.files, "--root", image, "--check").exit_code == 0
    script = image / "etc/azure/stillframe/pre.sh"
    script.write_bytes(script.read_bytes().replace(b"umask 077", b"umask 066"))
    result = run(*folder.files, "--root", image, "--check")
    assert result.exit_code == 1
    assert "-umask 066\n+umask 077\n" in result.output
    data = json.loads(run(*folder.files, "--root", image, "--check", "--json").output)
    assert data["differences"]


def test_dry_run_writes_nothing(folder: Folder, image: Path) -> None:
    result = run(*folder.files, "--root", image, "--dry-run")
    assert result.exit_code == 0
    assert f"would write {image}/etc/azure/stillframe/pre.sh (mode 700)" in result.output
    assert not list(image.iterdir())


def test_invalid_policies_write_nothing(folder: Folder, image: Path) -> None:
    folder.custom("bad", "[timing]\nhold = 1")
    result = run(*folder.files, "--root", image)
    assert isinstance(result.exception, PolicyInvalid)
    assert not list(image.iterdir())
    result = run(*folder.files, "--root", image, "--json")
    assert result.exit_code == 3
    assert json.loads(result.output)["problems"][0]["key"] == "timing.hold"


def test_an_operators_vmbackup_conf_is_never_replaced(folder: Folder, image: Path) -> None:
    (image / "etc/azure").mkdir(parents=True)
    theirs = image / "etc/azure/vmbackup.conf"
    theirs.write_text("[SnapshotThread]\nMountsToSkip = /theirs\n")
    theirs.chmod(0o600)
    result = run(*folder.files, "--root", image)
    assert isinstance(result.exception, HostUnfit)
    assert "move its keys into the policy" in result.exception.hint
    assert theirs.read_text().endswith("/theirs\n")
    assert not (image / "etc/azure/stillframe").exists()
    folder.files.clear()
    folder.custom("plain")
    assert run(*folder.files, "--root", image).exit_code == 0
    assert theirs.read_text().endswith("/theirs\n")


def test_no_file_of_somebody_elses_is_written_over_and_all_are_named(folder: Folder, image: Path) -> None:
    theirs = [
        image / "usr/bin/sh",
        image / "opt/post",
        image / "etc/azure/VMSnapshotScriptPluginConfig.json",
        image / "etc/azure/vmbackup.conf",
        image / "etc/azure/stillframe/plan.json",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
    folder.custom("a", "[framework]\npre_location = '/usr/bin/sh'\npost_location = '/opt/post'")
    for more in ((), ("--check",), ("--dry-run",)):
        refused = run(*folder.files, "--root", image, *more).exception
        assert isinstance(refused, HostUnfit)
        assert sorted(refused.message.split(": not one of ours")[0].split(", ")) == sorted(map(str, theirs))
        assert "move its keys into the policy" in refused.hint
        assert "move what is there away, or choose another place" in refused.hint
    assert all(path.read_text() == "theirs" for path in theirs)
    assert {path for path in image.rglob("*") if path.is_file()} == set(theirs)
    for path in theirs:
        path.rename(f"{path}.old")
    assert run(*folder.files, "--root", image).exit_code == 0


def test_what_is_as_we_would_write_it_is_no_strangers(folder: Folder, image: Path) -> None:
    assert run(*folder.files, "--root", image).exit_code == 0
    (image / "etc/azure/stillframe/manifest.json").write_text("damaged")
    assert run(*folder.files, "--root", image).exit_code == 0
    assert run(*folder.files, "--root", image, "--check").exit_code == 0


def test_a_changed_file_of_ours_is_written_anew(folder: Folder, image: Path) -> None:
    assert run(*folder.files, "--root", image).exit_code == 0
    script = image / "etc/azure/stillframe/pre.sh"
    before = script.read_bytes()
    script.write_bytes(before + b"# changed\n")
    assert run(*folder.files, "--root", image).exit_code == 0
    assert script.read_bytes() == before


def test_a_stale_vmbackup_conf_of_ours_goes(folder: Folder, image: Path) -> None:
    assert run(*folder.files, "--root", image).exit_code == 0
    ours = image / "etc/azure/vmbackup.conf"
    assert ours.exists()
    folder.files.clear()
    folder.custom("plain")
    result = run(*folder.files, "--root", image, "--check")
    assert result.exit_code == 1
    assert "vmbackup.conf: no longer needed" in result.output
    data = json.loads(run(*folder.files, "--root", image, "--json").output)
    assert data["removed"] == ["/etc/azure/vmbackup.conf"]
    assert not ours.exists()


def test_a_vmbackup_conf_that_was_changed_since_stays(folder: Folder, image: Path) -> None:
    assert run(*folder.files, "--root", image).exit_code == 0
    ours = image / "etc/azure/vmbackup.conf"
    ours.write_text(ours.read_text() + "SafeFreezeWaitInSeconds = 600\n")
    folder.files.clear()
    folder.custom("plain")
    result = run(*folder.files, "--root", image)
    assert isinstance(result.exception, HostUnfit)
    assert "600" in ours.read_text()


def test_scripts_that_moved_leave_nothing_behind(folder: Folder, image: Path) -> None:
    assert run(*folder.files, "--root", image).exit_code == 0
    (image / "opt").mkdir(mode=0o755)
    folder.files.clear()
    folder.custom("moved", "[framework]\npre_location = '/opt/pre'\npost_location = '/opt/post'")
    assert run(*folder.files, "--root", image).exit_code == 0
    assert not (image / "etc/azure/stillframe/pre.sh").exists()
    assert (image / "opt/pre").stat().st_mode & 0o7777 == 0o700
    assert run(*folder.files, "--root", image, "--check").exit_code == 0


NOBODY = 65534


def strangers(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def everybodys(path: Path) -> None:
    path.chmod(0o666)


def in_everybodys_folder(path: Path) -> None:
    path.parent.chmod(0o777)


SPOILED = [strangers, everybodys, in_everybodys_folder]


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("root", [(), ("--root", "/"), ("--root", "/proc/self/root")])
def test_root_compiles_no_policy_that_others_could_have_written(
    folder: Folder, tmp_path: Path, spoil: Callable[[Path], None], root: tuple[str, ...]
) -> None:
    spoil(Path(folder.files[0]))
    result = run(*folder.files, "--out", tmp_path / "azure", *root)
    assert isinstance(result.exception, HostUnfit)
    assert result.exception.hint.startswith(("chmod go-w", "chown -h root:root"))
    assert not (tmp_path / "azure").exists()


@pytest.mark.usefixtures("as_root")
def test_root_compiles_no_policy_that_extends_what_others_could_have_written(
    folder: Folder, tmp_path: Path
) -> None:
    base = folder.custom("base")
    child = folder.write('version = 1\nname = "child"\nextends = "./base.toml"\n')
    everybodys(Path(base))
    result = run(child, "--out", tmp_path / "azure")
    assert isinstance(result.exception, HostUnfit)
    assert result.exception.message.startswith(f"{base}: others may write it")
    assert result.exception.hint.startswith(f"chmod go-w {base}")
    assert not (tmp_path / "azure").exists()


@pytest.mark.usefixtures("as_root")
def test_root_compiles_no_policy_by_a_link(folder: Folder, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(folder.files[0])
    result = run(link, "--out", tmp_path / "azure")
    assert isinstance(result.exception, HostUnfit)
    assert result.exception.hint == f"name the policy itself: {folder.files[0]}"


@pytest.mark.usefixtures("as_root")
def test_a_policy_that_is_not_there_is_roots_policy_error_too(tmp_path: Path) -> None:
    for path in (tmp_path / "nope.toml", tmp_path):
        refused = run(path, "--out", tmp_path / "azure").exception
        assert isinstance(refused, PolicyInvalid)
        assert "cannot be read" in str(refused)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("spoil", SPOILED)
def test_into_an_image_whoever_wrote_the_policy_is_named(
    folder: Folder, image: Path, spoil: Callable[[Path], None]
) -> None:
    assert "warning" not in run(*folder.files, "--root", image, "--dry-run").output
    spoil(Path(folder.files[0]))
    result = run(*folder.files, "--root", image, "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"warning: {folder.files[0]}: others than root could have written it" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--out", "etc/azure", "--root", "."),
        ("--root", "/nowhere"),
        ("--binary", "app"),
        ("--binary", "/opt/../app"),
        ("--binary", "/opt/a\nb"),
        ("--out", "/x\ny"),
    ],
)
def test_paths_must_be_plain(folder: Folder, arguments: tuple[str, ...]) -> None:
    assert isinstance(run(*folder.files, "--dry-run", *arguments).exception, Misused)


def test_two_files_of_one_path_are_refused(folder: Folder, image: Path) -> None:
    folder.files.clear()
    folder.custom("a", "[framework]\npre_location = '/opt/azure/stillframe/plan.json'")
    assert run(*folder.files, "--root", image, "--dry-run").exit_code == 0
    refused = run(*folder.files, "--root", image, "--out", "/opt/azure")
    assert isinstance(refused.exception, PolicyInvalid)
    assert [problem.key for problem in refused.exception.problems] == ["framework.pre_location"]
    assert not list(image.iterdir())


def test_the_umask_has_no_say(folder: Folder, image: Path) -> None:
    old = os.umask(0o777)
    try:
        assert run(*folder.files, "--root", image).exit_code == 0
    finally:
        os.umask(old)
    assert (image / "etc/azure/stillframe/pre.sh").stat().st_mode & 0o7777 == 0o700


def test_validate_and_explain_speak_text_and_json(folder: Folder) -> None:
    for module in (validate, explain):
        text = CliRunner().invoke(module.command, folder.files)
        assert text.exit_code == 0
        assert "orders" in text.output
        assert json.loads(CliRunner().invoke(module.command, [*folder.files, "--json"]).output)
        nothing = CliRunner().invoke(module.command, [])
        assert nothing.exit_code == 2
