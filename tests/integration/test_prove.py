"""Root starts a server as the owner of its data: what that user does meanwhile stays that user's."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app import prove
from app.plan import Prove, Step
from tests.unit import plans

pytestmark = [pytest.mark.integration, pytest.mark.root]

RECIPE = Prove(
    user="nobody",
    facts={},
    path=(),
    remove=(),
    files={"conf": "a line of the configuration\n"},
    start=("sh", "-c", 'cat "$0"; echo words of the server; exec sleep 30', "{scratch}/conf"),
    stop_signal="TERM",
    start_seconds=10,
    stop_seconds=10,
    mechanisms={"command": {}},
    engine=(),
    check=(Step("command", {"argv": ["sh", "-c", "sleep 0.5; exit 1"]}),),
)


@pytest.fixture
def on_owner(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Does something in a folder as soon as it belongs to somebody else, as that user would."""

    def arrange(act: Callable[[Path], None]) -> None:
        for name in ("chown", "fchown"):
            own = getattr(os, name)

            def give(
                what: int | str, uid: int, gid: int, own: Callable[[int | str, int, int], None] = own
            ) -> None:
                own(what, uid, gid)
                if stat.S_ISDIR(os.stat(what).st_mode):
                    act(Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else Path(what))

            monkeypatch.setattr(os, name, give)

    return arrange


def reason(tmp_path: Path) -> str:
    proof = prove.prove(plans.application(prove=RECIPE), str(tmp_path), lambda words: None)
    assert not proof.proven
    return proof.reason


def test_the_servers_log_does_not_follow_a_link(
    tmp_path: Path, on_owner: Callable[[Callable[[Path], None]], None]
) -> None:
    victim = tmp_path / "of-root"
    victim.write_text("a secret\n")
    on_owner(lambda scratch: (scratch / "server.log").symlink_to(victim))
    (tmp_path / "data").mkdir()
    assert "a secret" not in reason(tmp_path / "data")
    assert victim.read_text() == "a secret\n"


@pytest.mark.timeout(30)
def test_a_pipe_in_the_logs_place_hangs_nothing(
    tmp_path: Path, on_owner: Callable[[Callable[[Path], None]], None]
) -> None:
    on_owner(lambda scratch: os.mkfifo(scratch / "server.log"))
    assert "words of the server" in reason(tmp_path)


def test_files_are_written_before_their_folder_is_given_away(
    tmp_path: Path, on_owner: Callable[[Callable[[Path], None]], None]
) -> None:
    found: list[str] = []
    on_owner(lambda scratch: found.extend(f"{p.name} {p.owner()}" for p in scratch.iterdir()))
    assert "a line of the configuration" in reason(tmp_path), "the server could not read its own file"
    assert found == ["conf nobody"]


def test_what_a_check_finds_is_told(
    tmp_path: Path, run_app: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Where a copy stands is known to nobody but the copy."""
    policy = tmp_path / "found.toml"
    policy.write_text(
        'version = 1\nname = "found"\nproven = "stand-in"\nlevel = "crash"\n[prove]\n[[prove.engine]]\n'
        'mechanism = "command"\nargv = ["echo", "at 7"]\nexpect = \'^at (\\d+)$\'\nsave = ["position"]\n'
    )
    (tmp_path / "data").mkdir()
    done = run_app("prove", policy, "--data", tmp_path / "data", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["found"] == {"position": "7"}
    done = run_app("prove", policy, "--data", tmp_path / "data")
    assert done.stdout.splitlines()[-2:] == ["found: proven", "  position         7"]
