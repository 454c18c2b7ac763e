"""Every fault that the framework or law 6 knows is found, named, explained, and repaired if that is safe."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from app import install, plan, verify
from app.cli.verify import command
from app.errors import FRAMEWORK_ERRORS, HostUnfit
from app.files import File
from app.verify.repair import repair

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
NOBODY = 65534
AZURE = "/etc/azure"
CONFIG = f"{AZURE}/VMSnapshotScriptPluginConfig.json"
OWN = f"{AZURE}/stillframe"


def empty_plan() -> str:
    return plan.Plan(
        applications=(),
        freeze=plan.Freeze(True, (), (), 60),
        snapshot=plan.Snapshot("none", {}),
        framework=plan.Framework(600, 1, True, (), (), 0, 0),
    ).to_json()


def make_config(**changes: Any) -> dict[str, Any]:
    config = {
        "pluginName": "ScriptRunner",
        "preScriptLocation": f"{OWN}/pre.sh",
        "postScriptLocation": f"{OWN}/post.sh",
        "preScriptParams": [],
        "postScriptParams": [],
        "preScriptNoOfRetries": 0,
        "postScriptNoOfRetries": 0,
        "timeoutInSeconds": 600,
        "continueBackupOnFailure": True,
        "fsFreezeEnabled": True,
        "ScriptsExecutionPollTimeSeconds": 1,
    }
    return {key: value for key, value in {**config, **changes}.items() if value is not ...}


def compile_to(image: Path, config: Any = None, text: str | None = None) -> None:
    content = text if text is not None else json.dumps(config or make_config())
    files = [
        File(CONFIG, 0o600, content.encode()),
        File(f"{OWN}/pre.sh", 0o700, b"exit 0\n"),
        File(f"{OWN}/post.sh", 0o700, b"exit 0\n"),
        File(f"{OWN}/plan.json", 0o600, empty_plan().encode()),
    ]
    manifest = {
        "binary": "/usr/local/bin/app",
        "files": {
            file.path: {"mode": f"{file.mode:o}", "sha256": hashlib.sha256(file.content).hexdigest()}
            for file in files
        },
    }
    files.append(File(f"{OWN}/manifest.json", 0o600, json.dumps(manifest).encode()))
    files.append(File("/usr/local/bin/app", 0o755, b"#!/bin/true\n"))
    install.write_set(str(image), files)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    place = tmp_path / "image"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    compile_to(place)
    return place


def check(image: Path) -> list[verify.Finding]:
    return verify.check(AZURE, str(image))


def one(image: Path) -> verify.Finding:
    found = check(image)
    assert len(found) == 1, "\n".join(map(str, found))
    assert found[0].framework == "" or found[0].framework in FRAMEWORK_ERRORS
    assert found[0].effect
    return found[0]


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


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100_000, '{"pluginName": 1e999}', "null"])
def test_config_that_cannot_be_parsed(image: Path, text: str) -> None:
    compile_to(image, text=text)
    assert check(image)[0].framework == "IncorrectJSONConfigFile"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pluginName", "Other"),
        ("pluginName", ...),
        ("preScriptLocation", "pre.sh"),
        ("preScriptLocation", ...),
        ("postScriptLocation", 7),
        ("preScriptParams", "a b"),
        ("postScriptParams", [1]),
        ("preScriptNoOfRetries", -1),
        ("postScriptNoOfRetries", True),
        ("timeoutInSeconds", 0),
        ("timeoutInSeconds", 1801),
        ("timeoutInSeconds", "600"),
        ("timeoutInSeconds", 600.0),
        ("continueBackupOnFailure", "true"),
        ("continueBackupOnFailure", ...),
        ("fsFreezeEnabled", 1),
        ("ScriptsExecutionPollTimeSeconds", 0),
        ("ScriptsExecutionPollTimeSeconds", 6),
        ("ScriptsExecutionPollTimeSeconds", 2.0),
        ("ScriptsExecutionPollTimeSeconds", "2"),
        ("ScriptsExecutionPollTimeSeconds", True),
        ("appName", 5),
    ],
)
def test_every_key_of_the_config(image: Path, key: str, value: Any) -> None:
    compile_to(image, make_config(**{key: value}))
    finding = one(image)
    assert (finding.severity, finding.framework) == (verify.ERROR, "IncorrectJSONConfigFile")
    assert finding.what.startswith(f"{key} is ")


def test_keys_that_may_be_absent_or_are_unknown(image: Path) -> None:
    compile_to(image, make_config(timeoutInSeconds=..., Extra=1))
    assert [(finding.severity, finding.what) for finding in check(image)] == [
        (verify.WARNING, "timeoutInSeconds is missing"),
        (verify.WARNING, 'unknown key "Extra"'),
    ]


HOST = f"{AZURE}/VMSnapshotPluginHost.conf"
GOOD_HOST = {
    "timeoutInSeconds": "1800",
    "numberOfPlugins": "1",
    "pluginName0": "ScriptRunner",
    "pluginPath0": "ScriptRunner",
    "pluginConfigPath0": AZURE,
}


def put_host(image: Path, values: dict[str, str], mode: int = 0o600, section: str = "pre_post") -> Path:
    place = image / HOST[1:]
    place.write_text(f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    place.chmod(mode)
    return place


@pytest.mark.parametrize("where", [AZURE, f"{AZURE}/", CONFIG])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_plugin_host_file(image: Path, where: str, mode: int) -> None:
    put_host(image, {**GOOD_HOST, "pluginConfigPath0": where}, mode)
    assert check(image) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeoutInSeconds", "x"),
        ("timeoutInSeconds", "599"),
        ("numberOfPlugins", "0"),
        ("pluginName0", "Other"),
        ("pluginPath0", ""),
        ("pluginConfigPath0", "/etc/other"),
    ],
)
def test_wrong_plugin_host_file(image: Path, key: str, value: str) -> None:
    put_host(image, {**GOOD_HOST, key: value})
    assert one(image).framework == "IncorrectPluginhostFile"
    put_host(image, {name: kept for name, kept in GOOD_HOST.items() if name != key})
    assert one(image).framework == "IncorrectPluginhostFile"


def test_plugin_host_file_that_cannot_be_read(image: Path) -> None:
    put_host(image, GOOD_HOST, section="other")
    assert "no section [pre_post]" in one(image).what
    (image / HOST[1:]).write_text("no section\nat all")
    assert one(image).framework == "IncorrectPluginhostFile"
    (image / HOST[1:]).write_bytes(b"\xff\xfe")
    assert one(image).framework == "IncorrectPluginhostFile"
    for mode in (0o622, 0o755):
        put_host(image, GOOD_HOST, mode)
        assert one(image).framework == "IncorrectPluginhostFile"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("timeout = 60\nMountsToSkip = /a,/b\nseqsnapshot = 1\nOnAppFailureDoFsFreeze = true", False),
        ("timeout = soon", True),
        ("timeout = 90", True),
        ("timeout = 90\nSafeFreezeWaitInSeconds = 100", False),
        ("MountsToSkip = data", True),
        ("OnAppSuccessDoFsFreeze = perhaps", True),
        ("seqsnapshot = %(nothing)s", True),
    ],
)
def test_backup_settings(image: Path, line: str, wrong: bool) -> None:
    place = image / AZURE[1:] / "vmbackup.conf"
    place.write_text(f"[SnapshotThread]\n{line}\n")
    place.chmod(0o644)
    assert len(check(image)) == wrong


def test_checking_changes_nothing_and_leaves_nothing_open(image: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    times = {path: path.stat().st_mtime_ns for path in image.rglob("*")}
    check(image)
    repair(check(image), AZURE, str(image))
    assert len(os.listdir("/proc/self/fd")) == before
    assert times == {path: path.stat().st_mtime_ns for path in image.rglob("*")}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@hypothesis.settings(max_examples=50)
@hypothesis.given(key=st.sampled_from(sorted(make_config())), value=JSON)
def test_no_value_of_the_config_raises(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    image = tmp_path_factory.getbasetemp() / "any-config"
    image.mkdir(exist_ok=True)
    compile_to(image, text=json.dumps({**make_config(), key: value}))
    for finding in check(image):
        json.dumps(finding.to_json(), ensure_ascii=False).encode()
        str(finding).encode()


ENTRIES = st.dictionaries(st.text(), JSON | st.fixed_dictionaries({"mode": JSON, "sha256": JSON}))


@hypothesis.settings(max_examples=50)
@hypothesis.given(manifest=JSON | st.fixed_dictionaries({"binary": JSON, "files": ENTRIES}))
def test_no_manifest_raises(tmp_path_factory: pytest.TempPathFactory, manifest: Any) -> None:
    image = tmp_path_factory.getbasetemp() / "any-manifest"
    image.mkdir(exist_ok=True)
    compile_to(image)
    (image / OWN[1:] / "manifest.json").write_text(json.dumps(manifest))
    found = check(image)
    assert found
    for finding in found:
        str(finding).encode()
    repair(found, AZURE, str(image))


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
