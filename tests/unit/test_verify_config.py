"""What ``app verify`` says of the files that the extension reads, whatever stands in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from app import verify
from app.verify.repair import repair
from tests.unit.compiled_images import (
    AZURE,
    CONFIG,
    OWN,
    check,
    compile_to,
    make_config,
    one,
)


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
