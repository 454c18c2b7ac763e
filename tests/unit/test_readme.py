"""What README.md shows on a console is what the program prints."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.commands import group
from app.errors import PolicyInvalid

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def shown(command: str) -> str:
    """What stands below a command in the README, up to the next one or the end of the block."""
    match = re.search(
        rf"^( *)[$#] {re.escape(command)}\n(.*?)^\1(?:```|[$#] )", README, re.MULTILINE | re.DOTALL
    )
    assert match is not None, command
    return re.sub(rf"^{match[1]}", "", match[2], flags=re.MULTILINE)


def policy(mark: str) -> str:
    """The README's policy with that line in it."""
    blocks = re.findall(r"^ *```toml\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
    (text,) = (str(block) for block in blocks if mark in block)
    return re.sub(r"^ {3}", "", text, flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("orders.toml").write_text(policy("# orders.toml\n"))


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(group, words)
    return done.exit_code, done.output


def test_compile() -> None:
    Path("image").mkdir()
    status, output = run("compile", "orders.toml", "--root", "image")
    assert status == 0
    wanted = shown("app compile orders.toml").replace("next: app verify\n", "")
    assert output.replace(f"{os.getcwd()}/image/", "/").startswith(wanted)


def test_explain_up_to_where_it_is_cut_off() -> None:
    wanted, dots, rest = shown("app explain orders.toml").rpartition("...\n")
    assert (dots, rest) == ("...\n", "")
    assert run("explain", "orders.toml")[1].startswith(wanted)


def test_validate() -> None:
    Path("wrong.toml").write_text(
        'version = 1\nname = "orders"\nextends = "postgresq"\n\n[timing]\nhold = "60"\n\n'
        "[framework]\npoll_seconds = 2.0\n"
    )
    done = CliRunner().invoke(group, ["validate", "wrong.toml"], standalone_mode=False)
    assert isinstance(done.exception, PolicyInvalid)
    assert f"error: {done.exception}\n" == shown("app validate wrong.toml")


@pytest.mark.skipif(os.geteuid() != 0, reason="root must own what is verified")
def test_verify_and_its_repair() -> None:
    image = Path("image")
    (image / "usr/local/bin").mkdir(parents=True)
    (image / "usr/local/bin/app").write_text("#!/bin/sh\n")
    (image / "usr/local/bin/app").chmod(0o755)
    assert run("compile", "orders.toml", "--root", "image")[0] == 0
    (image / "etc/azure/stillframe/pre.sh").chmod(0o644)
    for words, status in ((["verify"], 4), (["verify", "--fix"], 0)):
        found, output = run(*words, "--root", "image")
        assert found == status
        assert output.replace(f"{os.getcwd()}/image/", "/") == shown(" ".join(["app", *words]))
