"""What init writes: valid TOML, what must be decided and nothing else in force."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.init import command, describe, text
from app.cli.written import create
from app.compiler import compile_paths
from app.errors import HostUnfit, Misused, PolicyInvalid
from app.policy import shipped_names


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(command, list(map(str, words)), standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.output


@pytest.mark.parametrize("base", shipped_names())
def test_of_every_shipped_policy(base: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    output = run("mine", "--from", base, "--out", path)
    written = path.read_text()
    assert tomllib.loads(written)["extends"] == base
    to_fill_in = re.findall(r"^# TO BE FILLED IN: ", written, re.MULTILINE)
    if to_fill_in:
        assert "next: fill in " in output
        with pytest.raises(PolicyInvalid) as refused:
            compile_paths([str(path)])
        assert len(refused.value.problems) == len(to_fill_in)
        assert all("has no value and no default" in p.message for p in refused.value.problems)
    else:
        compile_paths([str(path)])
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("base", ["postgresql", "sqlite", "redis", "sql-server"])
def test_with_every_comment_sign_taken_away_it_is_what_it_was(base: str, tmp_path: Path) -> None:
    """What stands there commented out are the values in force."""
    written = text("mine", base)
    bare = re.sub(r"^# (?=[a-z_]+ = |    |\])", "", written, flags=re.MULTILINE)
    data = tomllib.loads(bare)
    assert data.pop("required") is False
    for key in re.findall(r"^# TO BE FILLED IN: (?:.*\n)(?:# .*\n)*?# ([a-z_]+) = ", written, re.MULTILINE):
        data["settings"][key] = {"databases": ["/d"]}.get(key, "/x")
    opened, plain = tmp_path / "opened.toml", tmp_path / "plain.toml"
    import tomli_w

    opened.write_text(tomli_w.dumps(data))
    only = {key: value for key, value in data.get("settings", {}).items() if value in ("/x", ["/d"])}
    plain.write_text(tomli_w.dumps({"version": 1, "name": "mine", "extends": base, "settings": only}))
    assert compile_paths([str(opened)]).plan == compile_paths([str(plain)]).plan


FILLED = {
    "databases": ["/srv/a.db"],
    "units": ["orders.service"],
    "container": "orders",
    "database": "ORDERS",
    "suffix": "dc=example",
    "key": "KEY",
    "os_user": "hdbadm",
    "oracle_sid": "ORCL",
}
"""What an operator writes; any other setting without a default is a path."""


@pytest.mark.parametrize("base", shipped_names())
def test_filled_in_it_compiles(base: str, tmp_path: Path) -> None:
    """As an operator does: of the marked lines the sign is taken away, and a value put in."""
    import tomli_w

    path = tmp_path / "mine.toml"
    run("mine", "--from", base, "--out", path)

    def fill_in(match: re.Match[str]) -> str:
        return match[1] + tomli_w.dumps({match[2]: FILLED.get(match[2], "/srv/x")})

    marked = re.compile(
        r"^(# TO BE FILLED IN: .*\n(?:# (?![a-z_]+ = ).*\n)*)# ([a-z_]+) = .*\n", re.MULTILINE
    )
    text, count = marked.subn(fill_in, path.read_text())
    assert count == path.read_text().count("TO BE FILLED IN")
    path.write_text(text)
    assert [a.name for a in compile_paths([str(path)]).plan.applications] == ["mine"]


def test_the_name_is_the_policy_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrote postgresql.toml" in run("postgresql")
    compile_paths([str(tmp_path / "postgresql.toml")])


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_is_there_stays(link: bool, tmp_path: Path) -> None:
    path = tmp_path / "orders.toml"
    if link:
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    with pytest.raises(HostUnfit, match="nothing was written"):
        run("orders", "--from", "postgresql", "--out", path)
    assert link or path.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def interrupted(path: str, flags: int, mode: int) -> int:
        if path.endswith("c"):
            raise KeyboardInterrupt
        return real(path, flags, mode)

    monkeypatch.setattr("app.cli.written.os.open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create([(str(tmp_path / name), "text") for name in "abc"])
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "NAME is missing"),
        (["Orders", "--from", "postgresql"], "no name"),
        (["orders"], "no shipped policy"),
        (["orders", "--from", "../etc"], "no shipped policy"),
        (["a\nb"], "no name"),
    ],
)
def test_wrong_use_is_told(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Misused, match=told):
        run(*words)
    assert not list(tmp_path.iterdir())


def test_the_list_names_every_policy_with_its_level() -> None:
    lines = run("--list").splitlines()
    assert [line.split()[0] for line in lines] == shipped_names()
    for name in shipped_names():
        told = describe(name)
        assert told["level"] in ("crash", "filesystem", "application")
        assert told["proven"] in ("real server", "stand-in")
        assert told["summary"]
