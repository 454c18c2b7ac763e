"""No form of a secret gets past the mask, and nothing is cut before it is masked."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import journal, masking
from app.template import FILTERS

ODD = 'it\'s "{x}" & ä%$ :\\ end'


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    masking._known.clear()
    yield
    masking._known.clear()


@pytest.mark.parametrize(
    "form",
    [
        ODD,
        repr(ODD),
        json.dumps(ODD),
        json.dumps(ODD, ensure_ascii=False),
        ODD.replace("'", "''"),
        ODD.replace('"', '""'),
        FILTERS["quoted"](ODD),
        FILTERS["url"](ODD),
        FILTERS["pgpass"](ODD),
        urllib.parse.quote(ODD, safe=""),
        base64.b64encode(ODD.encode()).decode(),
        ODD.encode().hex(),
    ],
)
def test_every_form_is_masked(form: str) -> None:
    masking.remember(ODD)
    assert masking.mask(f"before {form} after").startswith("before ")
    for part in ("end", "it", ODD.encode().hex()[:8]):
        assert part not in masking.mask(form)


@given(st.text(min_size=4, max_size=40), st.text(max_size=60))
def test_no_secret_is_in_what_was_masked(secret: str, around: str) -> None:
    masking._known.clear()
    masking.remember(secret)
    masked = masking.mask(around + secret + around)
    assert secret not in masked.replace(masking.MASK, "") or secret in masking.MASK


def test_it_is_masked_before_it_is_cut() -> None:
    masking.remember("a-long-password")
    assert "a-long" not in masking.shorten("x" * 290 + "a-long-password")
    assert "password" not in masking.shorten_to_end("a-long-password" + "x" * 292)


def test_the_longer_of_two_is_masked_whole() -> None:
    masking.remember("pass")
    masking.remember("passphrase")
    assert masking.mask("passphrase") == "[secret]"


def test_the_journal_masks_all_that_it_is_told(tmp_path: Path) -> None:
    masking.remember("hidden-word")
    notes = journal.Journal(str(tmp_path / "journal"))
    notes.note("step", what="say hidden-word", saved={"a": ["x hidden-word y"]}, seconds=1.5)
    notes.close()
    text = (tmp_path / "journal").read_text()
    assert "hidden" not in text
    (event,) = journal.read(str(tmp_path / "journal"))
    assert (event["saved"], event["seconds"]) == ({"a": ["x [secret] y"]}, 1.5)
