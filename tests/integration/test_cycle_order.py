"""Several applications in one hold: their order, what an optional one may cost, and when a backup fails.

They are custom applications whose state is a file each, so that every step can be made to fail.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stage import Event, Stage, stage

pytestmark = [pytest.mark.integration]

CONTROL = """\
#!/bin/sh
# state NAME: "running" or "paused"; FOLDER/NAME.WORD makes that word fail, or hang.
cd {folder} || exit 1
if [ -e "$1.$2" ]; then cat "$1.$2" >&2; [ ! -s "$1.$2" ] && sleep 30; exit 1; fi
case $2 in
    pause) echo paused >"$1.state" ;;
    resume) echo running >"$1.state" ;;
esac
cat "$1.state"
"""


@dataclass(slots=True)
class Town:
    """Applications, each by a policy of its own."""

    here: Stage
    control: Path

    def add(self, name: str, after: tuple[str, ...] = (), required: bool = True, extra: str = "") -> Path:
        """A running application and its policy."""
        (self.here.folder / f"{name}.state").write_text("running\n")
        return self.here.policy(
            f"""
name = "{name}"
proven = "stand-in"
level = "application"
required = {str(required).lower()}
after = {list(after)}
[timing]
quiesce = 2
retries = 0
hold = 65
release = 3
[freeze]
enabled = false
[snapshot]
provider = "none"
{extra}
[[quiesce]]
mechanism = "command"
argv = ["{self.control}", "{name}", "pause"]
[[verify]]
mechanism = "command"
argv = ["{self.control}", "{name}", "status"]
expect = "^paused"
proof = true
[[release]]
mechanism = "command"
argv = ["{self.control}", "{name}", "resume"]
[[recover]]
mechanism = "command"
argv = ["{self.control}", "{name}", "resume"]
""",
            name,
        )

    def fail(self, name: str, word: str, why: str = "it refuses") -> None:
        """Let that word of that application fail; with no reason, hang."""
        (self.here.folder / f"{name}.{word}").write_text(why)

    def states(self) -> dict[str, str]:
        """``running`` or ``paused`` of each."""
        return {p.stem: p.read_text().strip() for p in sorted(self.here.folder.glob("*.state"))}


@pytest.fixture
def town(app_command: list[str]) -> Iterator[Town]:
    with stage(app_command) as here:
        yield Town(here, here.program("control", CONTROL.format(folder=here.folder)))


def order(events: list[Event], name: str) -> list[str]:
    """Applications in the order of that event."""
    return [e["app"] for e in events if e["event"] == name]


def held(report: dict[str, Any]) -> dict[str, bool]:
    """Which applications were held."""
    return {a["name"]: a["held"] for a in report["applications"]}


def test_release_is_the_reverse(town: Town) -> None:
    """web before app before db: nobody is quiesced before who it comes after, and none released before."""
    policies = [town.add("db", ("app",)), town.add("app", ("web",)), town.add("web")]
    status, report = town.here.run(*policies)
    assert (status, all(held(report).values())) == (0, True), report["because"]
    events = town.here.events()
    assert order(events, "quiesced") == ["web", "app", "db"]
    assert order(events, "released") == ["db", "app", "web"]
    times = {(e["event"], e.get("app")): e["t"] for e in events}
    assert times["quiesced", "web"] < times["quiescing", "app"]
    assert times["quiesced", "app"] < times["quiescing", "db"]
    assert times["released", "db"] < times["releasing", "app"]
    assert times["verified", "web"] < times["releasing", "db"], "every proof comes before the first release"


def test_independent_ones_at_once(town: Town) -> None:
    """Two that do not depend on each other are quiesced together."""
    status, _ = town.here.run(town.add("a"), town.add("b"))
    assert status == 0
    events = [e for e in town.here.events() if e["event"] in ("quiescing", "quiesced")]
    assert [e["event"] for e in events] == ["quiescing", "quiescing", "quiesced", "quiesced"]


@pytest.mark.parametrize("backup", ["continue", "fail"])
def test_required_one_fails(town: Town, backup: str) -> None:
    """What was quiesced before it is released; then the policy says whether there is a snapshot."""
    extra = f'[failure]\nbackup = "{backup}"\n'
    policies = [town.add("web", extra=extra), town.add("app", ("web",), extra=extra)]
    town.fail("app", "pause")
    status, report = town.here.run(*policies)
    assert status == (1 if backup == "continue" else 6)
    assert report["achieved"] != "application"
    assert "it refuses" in "; ".join(report["because"])
    assert town.states() == {"web": "running", "app": "running"}
    taken = [e for e in town.here.events() if e["event"] == "snapshot_begin"]
    assert len(taken) == (1 if backup == "continue" else 0)
    assert not report["stuck"]


def test_optional_one_fails(town: Town) -> None:
    """The others stay held; the level is lower, and the report says because of whom."""
    status, report = town.here.run(town.add("web"), town.add("extra", ("web",), required=False))
    assert (status, report["achieved"]) == (0, "application"), report["because"]
    town.fail("extra", "pause")
    status, report = town.here.run(town.here.folder / "web.toml", town.here.folder / "extra.toml")
    assert held(report) == {"web": True, "extra": False}
    assert (status, report["achieved"]) == (1, "crash")
    assert town.states() == {"web": "running", "extra": "running"}


def test_one_that_comes_after_a_failed_optional_one_goes_on(town: Town) -> None:
    """Its turn comes although it was given up."""
    town.fail("extra", "pause")
    policies = [town.add("extra", required=False), town.add("db", ("extra",))]
    _, report = town.here.run(*policies)
    assert held(report) == {"extra": False, "db": True}
    assert town.states()["db"] == "running"


def test_quiesce_that_hangs(town: Town) -> None:
    """Ended at its time, undone, and the rest released."""
    policies = [town.add("web"), town.add("app", ("web",))]
    town.fail("app", "pause", "")
    status, report = town.here.run(*policies)
    assert status == 1
    assert "did not end in the time allowed" in "; ".join(report["because"])
    assert town.states() == {"web": "running", "app": "running"}


def test_hold_that_was_not_kept(town: Town) -> None:
    """Somebody resumed it during the hold: verified before the release, and not claimed."""
    web = town.add("web")
    web.write_text(web.read_text().replace('provider = "none"', 'provider = "none"\nseconds = 0.5'))
    cycle = town.here.start("run", "--json", web)
    cycle.when("snapshot_begin")
    (town.here.folder / "web.state").write_text("running\n")
    assert cycle.wait(10) == 1
    (report,) = town.here.reports()
    assert report["achieved"] == "crash"
    assert "which does not match '^paused'" in "; ".join(report["because"])


def test_release_that_fails(town: Town) -> None:
    """Undone by ``recover``; the level is not claimed, as nobody knows when it went on."""
    web = town.add("web")
    web.write_text(web.read_text().replace('"web", "resume"]\n[[recover', '"web", "go"]\n[[recover'))
    town.fail("web", "go")
    status, report = town.here.run(web)
    assert status == 1
    assert not held(report)["web"]
    assert not report["stuck"]
    assert town.states() == {"web": "running"}


def test_neither_release_nor_recover(town: Town) -> None:
    """Exit 7 outranks all else; it is remembered, and ``app recover`` ends it once it can be ended."""
    web = town.add("web")
    town.fail("web", "resume")
    status, report = town.here.run(web)
    assert (status, report["stuck"]) == (7, ["web"])
    assert town.states() == {"web": "paused"}
    assert town.here.app("status")[0] == 7
    assert town.here.app("recover")[0] == 7
    (town.here.folder / "web.resume").unlink()
    status, output, _ = town.here.app("recover")
    assert (status, output) == (0, "web: released\n")
    assert town.states() == {"web": "running"}
    assert town.here.app("status")[0] == 0
    assert town.here.app("recover")[1] == "nothing was left behind\n"


def test_next_cycle_recovers_first(town: Town) -> None:
    """What an earlier hold left is ended before a new one begins, and said."""
    web = town.add("web")
    town.fail("web", "resume")
    assert town.here.run(web)[0] == 7
    (town.here.folder / "web.resume").unlink()
    status, _, errors = town.here.app("run", web)
    assert status == 0, errors
    assert "an earlier hold died" in errors
    assert "released: web" in errors


@pytest.mark.parametrize("required", [False, True], ids=["optional", "required"])
def test_one_is_lost_during_the_hold(town: Town, required: bool) -> None:
    """A required one breaks the hold at once; without an optional one the others stay held to the end."""
    policies = [town.add("web"), town.add("extra", required=required)]
    for path in policies:
        path.write_text(path.read_text().replace('provider = "none"', 'provider = "none"\nseconds = 1'))
    cycle = town.here.start("run", "--json", *policies)
    keeper = cycle.when("process", role="keeper", app="extra")["pid"]
    begun = cycle.when("snapshot_begin")["t"]
    os.kill(keeper, signal.SIGKILL)
    status = cycle.wait(10)
    (report,) = town.here.reports()
    assert held(report) == {"web": not required, "extra": False}
    assert "its keeper died" in "; ".join(report["because"])
    assert (status, report["achieved"]) == ((6, "none") if required else (1, "crash"))
    released = next(e["t"] for e in town.here.events() if e["event"] == "released" and e["app"] == "web")
    assert (released - begun < 0.9) == required
    assert town.states() == {"web": "running", "extra": "running"}
    assert not report["stuck"]


@pytest.mark.root
def test_optional_one_fails_in_a_backup(town: Town) -> None:
    """The framework's scripts both succeed: the level is lower, the backup never fails for it."""
    town.fail("extra", "pause")
    here = town.here
    config = here.folder / "azure"
    here.folder.chmod(0o700)
    policies = [town.add("web"), town.add("extra", required=False)]
    status, _, errors = here.app("compile", *policies, "--out", config, "--binary", here.command[0])
    assert status == 0, errors
    assert here.app("pre", "--config", config)[0] == 0
    assert town.states() == {"web": "paused", "extra": "running"}
    assert here.app("status")[0] == 0
    environ = {**os.environ, "STILLFRAME_PREFIX": str(here.prefix)}
    assert subprocess.run(["sh", config / "stillframe" / "post.sh"], env=environ).returncode == 0
    assert town.states() == {"web": "running", "extra": "running"}
    here.wait_until_free(5)
    (report,) = here.reports()
    assert report["achieved"] != "application"
    assert held(report) == {"web": True, "extra": False}
