"""A server that keeps a catalog of backups is told of none that is none."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest

from tests.integration.stage import Stage, stage
from tests.standins.cases import CASES
from tests.standins.ground import standin

pytestmark = [pytest.mark.integration]

SETTINGS = {case.name: case.settings for case in CASES}


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


@pytest.mark.parametrize(
    ("taken", "state"), [(True, "successful"), (False, "failed"), (None, "failed")], ids=str
)
def test_hana_s_catalog(here: Stage, taken: bool | None, state: str) -> None:
    with standin(here, "hana") as at:
        text = textwrap.dedent(SETTINGS["sap-hana"](at))
        status, report = at.report(at.policy(text, taken=taken))
        (_, entry) = at.look("catalog")
        assert entry["state"] == state
        assert (status, report["stuck"], at.look("prepared")) == (6 if taken is False else 0, [], 0)


@pytest.mark.parametrize(("taken", "backups"), [(True, 1), (False, 0), (None, 0)], ids=str)
def test_sql_server_s_backups(here: Stage, taken: bool | None, backups: int) -> None:
    with standin(here, "sqlserver") as at:
        text = textwrap.dedent(SETTINGS["sql-server metadata"](at))
        status, report = at.report(at.policy(text, taken=taken))
        assert len(at.look("backups")) == backups
        assert (status, report["stuck"], at.look("suspended")) == (6 if taken is False else 0, [], [])
