"""Every fault that the framework or law 6 knows is found, named, explained, and repaired if that is safe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from app import verify
from app.cli.verify import command
from app.errors import FRAMEWORK_ERRORS, HostUnfit
from app.verify.repair import repair
from tests.unit.compiled_images import (
    AZURE,
    CONFIG,
    NOBODY,
    OWN,
    check,
    compile_to,
    empty_plan,
    make_config,
    one,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")


def test_clean(image: Path) -> None:
    assert check(image) == []
    verify.demand(AZURE, str(image))
    assert verify.load_plan_text(AZURE, str(image)) == empty_plan()


@pytest.mark.parametrize(
    ("path", "mode", "name"),
    [
        (f"{OWN}/pre.sh", 0o755, "InsufficientPermissionforPre-Script"),
        (f"{OWN}/post.sh", 0o4700, "InsufficientPermissionforPost-Script"),
        (f"{OWN}/post.sh", 0o770, "InsufficientPermissionforPost-Script"),
        (CONFIG, 0o644, "IncorrectJSONConfigFile"),
        (CONFIG, 0o700, "IncorrectJSONConfigFile"),
        (f"{OWN}/plan.json", 0o640, "Pre-ScriptExecutionFailed"),
        (f"{OWN}/manifest.json", 0o640, "Pre-ScriptExecutionFailed"),
        (OWN, 0o755, "Pre-ScriptExecutionFailed"),
    ],
)
def test_wrong_mode_is_named_and_repaired(image: Path, path: str, mode: int, name: str) -> None:
    place = image / path[1:]
    want = place.stat().st_mode & 0o7777
    place.chmod(mode)
    finding = one(image)
    assert (finding.severity, finding.framework, finding.path) == (verify.ERROR, name, str(place))
    assert finding.what == f"mode {mode:o}, want {want:o}"
    assert finding.repair == f"chmod {want:o} {place}"
    assert finding.advice == FRAMEWORK_ERRORS[name].advice
    (done,) = repair([finding], AZURE, str(image))
    assert str(place) in done
    assert check(image) == []


def test_published_rule_is_told_from_the_measured_one(image: Path) -> None:
    (image / OWN[1:] / "pre.sh").chmod(0o500)
    assert "measured to let it pass" in one(image).effect
    (image / OWN[1:] / "pre.sh").chmod(0o750)
    assert one(image).effect == "the backup goes on, filesystem-consistent (continueBackupOnFailure is true)"


@pytest.mark.parametrize(
    ("changes", "effect"),
    [
        ({"continueBackupOnFailure": False}, "the backup fails without a snapshot"),
        ({"fsFreezeEnabled": False}, "the backup fails: fsFreezeEnabled is false"),
    ],
)
def test_effect_follows_the_decision_table(image: Path, changes: dict[str, bool], effect: str) -> None:
    compile_to(image, make_config(**changes))
    (image / OWN[1:] / "pre.sh").chmod(0o777)
    assert effect in one(image).effect


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{OWN}/pre.sh", "Pre-ScriptNotFound"),
        (f"{OWN}/post.sh", "Post-ScriptNotFound"),
        (CONFIG, ""),
        (f"{OWN}/plan.json", "Pre-ScriptExecutionFailed"),
        (f"{OWN}/manifest.json", "Pre-ScriptExecutionFailed"),
        ("/usr/local/bin/app", "Pre-ScriptExecutionFailed"),
    ],
)
def test_missing(image: Path, path: str, name: str) -> None:
    (image / path[1:]).unlink()
    # The same file is missing by the config and by the manifest: the framework's name comes first.
    finding = check(image)[0]
    assert (finding.framework, finding.what) == (name, "does not exist")
    assert "app" in finding.repair
    assert repair(check(image), AZURE, str(image)) == []


def test_missing_config_is_silently_ignored_by_the_extension(image: Path) -> None:
    (image / CONFIG[1:]).unlink()
    assert "nothing is reported" in one(image).effect


def test_nothing_compiled_at_all(tmp_path: Path) -> None:
    paths = [finding.path for finding in verify.check(AZURE, str(tmp_path))]
    assert paths == [f"{tmp_path}{CONFIG}", f"{tmp_path}{OWN}/manifest.json"]


@as_root
@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{OWN}/pre.sh", "InsufficientPermissionforPre-Script"),
        (f"{OWN}/post.sh", "InsufficientPermissionforPost-Script"),
        (CONFIG, "IncorrectJSONConfigFile"),
        (f"{OWN}/plan.json", "Pre-ScriptExecutionFailed"),
    ],
)
def test_wrong_owner_is_repaired_where_the_manifest_vouches(image: Path, path: str, name: str) -> None:
    place = image / path[1:]
    os.chown(place, NOBODY, NOBODY)
    held = place.open("r+b")  # by the former owner
    finding = one(image)
    assert (finding.framework, finding.what) == (
        name,
        f"owned by user {NOBODY} (mode {mode_of(place)}), not by root",
    )
    (done,) = repair([finding], AZURE, str(image))
    assert "written anew with the same bytes" in done
    assert check(image) == []
    with held:
        held.write(b"rm -rf /")
    assert check(image) == []


def mode_of(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:o}"


@as_root
def test_owner_of_a_changed_file_is_not_laundered(image: Path) -> None:
    place = image / OWN[1:] / "pre.sh"
    place.write_bytes(b"exit 1\n")
    os.chown(place, NOBODY, NOBODY)
    assert repair(check(image), AZURE, str(image)) == []
    assert place.stat().st_uid == NOBODY
    assert place.read_bytes() == b"exit 1\n"


@as_root
def test_manifest_of_another_user_vouches_for_nothing(image: Path) -> None:
    os.chown(image / OWN[1:] / "manifest.json", NOBODY, NOBODY)
    os.chown(image / OWN[1:] / "pre.sh", NOBODY, NOBODY)
    assert repair(check(image), AZURE, str(image)) == []
    assert len(check(image)) == 2
    with pytest.raises(HostUnfit):
        verify.load_plan_text(AZURE, str(image))


@as_root
def test_own_folder_of_another_user(image: Path) -> None:
    os.chown(image / OWN[1:], NOBODY, NOBODY)
    (image / OWN[1:]).chmod(0o777)
    done = repair(check(image), AZURE, str(image))
    assert done == [f"{image}{OWN}: owner {NOBODY} -> 0, mode 777 -> 700"]
    assert check(image) == []


def test_folder_above_is_found_and_left_to_the_operator(image: Path) -> None:
    (image / "etc/azure").chmod(0o777)
    finding = one(image)
    assert (finding.path, finding.repair) == (f"{image}/etc/azure", f"chmod go-w {image}/etc/azure")
    assert repair([finding], AZURE, str(image)) == []


@pytest.mark.parametrize("name", ["pre.sh", "plan.json", "manifest.json"])
def test_link_is_refused_and_never_followed(image: Path, tmp_path: Path, name: str) -> None:
    place = image / OWN[1:] / name
    outside = tmp_path / "outside"
    place.rename(outside)
    outside.chmod(0o644)
    place.symlink_to(outside)
    found = check(image)
    assert found[0].what == "is a symbolic link"
    assert repair(found, AZURE, str(image)) == []
    assert mode_of(outside) == "644"


def test_changed_bytes(image: Path) -> None:
    (image / OWN[1:] / "post.sh").write_bytes(b"exit 1\n")
    finding = one(image)
    assert "sha256 differs" in finding.what
    assert finding.repair == "app compile again"
    (image / OWN[1:] / "post.sh").write_bytes(b"exit 0\n")
    (image / OWN[1:] / "plan.json").write_text("{}")
    with pytest.raises(HostUnfit, match="not the plan that the manifest names"):
        verify.load_plan_text(AZURE, str(image))


def test_second_name_is_a_warning_only(image: Path) -> None:
    os.link(image / OWN[1:] / "pre.sh", image / "other")
    assert one(image).severity == verify.WARNING
    verify.demand(AZURE, str(image))


def test_checking_changes_nothing_and_leaves_nothing_open(image: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    times = {path: path.stat().st_mtime_ns for path in image.rglob("*")}
    check(image)
    repair(check(image), AZURE, str(image))
    assert len(os.listdir("/proc/self/fd")) == before
    assert times == {path: path.stat().st_mtime_ns for path in image.rglob("*")}


class TestCommand:
    def run(self, image: Path, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(command, ["--root", str(image), *arguments])
        return result.exit_code, result.stdout

    def test_clean(self, image: Path) -> None:
        status, text = self.run(image)
        assert status == 0
        assert text.splitlines()[0] == f"{image}/etc/azure: everything is as it was compiled"

    def test_wrong(self, image: Path) -> None:
        (image / OWN[1:] / "pre.sh").chmod(0o755)
        status, text = self.run(image)
        assert status == 4
        assert text.splitlines()[0] == (
            f"error: {image}{OWN}/pre.sh: mode 755, want 700  [InsufficientPermissionforPre-Script 306]"
        )
        assert f"    repair: chmod 700 {image}{OWN}/pre.sh" in text
        assert f"{image}/etc/azure: not fit: 1 error, 0 warnings" in text.splitlines()

    def test_fix_and_json(self, image: Path) -> None:
        (image / OWN[1:] / "pre.sh").chmod(0o755)
        status, text = self.run(image, "--json")
        assert status == 4
        (finding,) = json.loads(text)["findings"]
        assert finding["framework_error"] == "InsufficientPermissionforPre-Script"
        assert finding["framework_codes"] == [306]
        status, text = self.run(image, "--fix", "--json")
        assert status == 0
        data = json.loads(text)
        assert (data["ok"], data["findings"]) == (True, [])
        assert data["repaired"] == [f"{image}{OWN}/pre.sh: mode 755 -> 700"]

    def test_warnings_exit_0(self, image: Path) -> None:
        compile_to(image, make_config(Extra=1))
        status, text = self.run(image)
        assert status == 0
        assert "fit, with 1 warning" in text
