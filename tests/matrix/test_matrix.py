"""The kill matrix: every process of ours, killed or stopped at every step and in between, on real volumes.

``make test`` runs a short form; ``make test-kill`` 500 blows. What is struck follows from a seed, which is
printed; each blow prints one line. STILLFRAME_TEST_KILL is how many, STILLFRAME_TEST_SEED the seed,
STILLFRAME_TEST_LANES how many side by side, and STILLFRAME_TEST_BLOW repeats what a failure names.
"""

from __future__ import annotations

import os
import queue
import random
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests import postgres, scratch
from tests.matrix import figures
from tests.matrix.blows import Blow, Instant, learn, parse, plan
from tests.matrix.forms import FORMS, Form
from tests.matrix.lane import Lane, lane
from tests.matrix.laws import LONGEST, Outcome, suffer, undisturbed

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

SHORT = 18
"""Blows of the short form."""

BLOWS = int(os.environ.get("STILLFRAME_TEST_KILL") or SHORT)
# The short form is the same in every run, so that a change is judged by the same blows as the one before.
SEED = int(
    os.environ.get("STILLFRAME_TEST_SEED")
    or (7 if BLOWS == SHORT else random.SystemRandom().randrange(10**6))
)
LANES = int(os.environ.get("STILLFRAME_TEST_LANES") or 2)

FORM_BY_NAME = {form.name: form for form in FORMS}


@pytest.fixture
def lanes(app_command: list[str]) -> Iterator[list[Lane]]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with ExitStack() as stack:
        server = postgres.programs() is not None
        yield [stack.enter_context(lane(app_command, with_postgres=server)) for _ in range(LANES)]


@pytest.mark.timeout(60 + 6 * BLOWS)
def test_any_blow(lanes: list[Lane]) -> None:
    """Laws 1 to 3 hold after each blow, and the next cycle succeeds."""
    say(f"\n{BLOWS} blows: STILLFRAME_TEST_SEED={SEED} STILLFRAME_TEST_KILL={BLOWS}")
    forms = [f for f in FORMS if f.name != "postgresql" or lanes[0].cluster is not None]
    if len(forms) < len(FORMS):
        say("without PostgreSQL: there is no server")
    named = os.environ.get("STILLFRAME_TEST_BLOW")
    blows = list(parse(named)) if named else planned(lanes[0], forms)
    before = grace_periods()
    begun = time.monotonic()
    outcomes = struck(lanes, blows)
    say(f"{len(outcomes)} blows in {time.monotonic() - begun:.0f} s")
    say(figures.table(outcomes))
    bad = [o for o in outcomes if o.wrong]
    for outcome in bad:
        assert outcome.blow is not None
        say(f"again: STILLFRAME_TEST_BLOW='{outcome.blow.to_json()}'")
        say(f"    {outcome.wrong}\n    {outcome.words}")
        say("\n".join(f"    {event}" for event in outcome.events))
    assert len(outcomes) == len(blows)
    assert not bad, f"{len(bad)} of {len(outcomes)} failed, seed {SEED}: {[o.wrong for o in bad]}"
    assert grace_periods() == before


def planned(where: Lane, forms: list[Form]) -> list[Blow]:
    """The blows of this seed."""
    instants = learned(where, forms)
    places = {(form, who, i.name) for form, found in instants.items() for i in found for who in i.alive}
    blows = plan(instants, BLOWS, SEED)
    struck_at = {(b.form, b.victim, b.instant) for b in blows}
    say(f"{len(places)} pairs of a process and a step it lives at; {len(struck_at)} of them are struck")
    return blows


def learned(where: Lane, forms: list[Form]) -> dict[str, list[Instant]]:
    """The instants of each form, from a cycle that nobody disturbs."""
    instants = {}
    for form in forms:
        with form.ready(where):
            where.forget()
            scratch.freeze(where.foreign.mount)
            running = form.start(where)
            instants[form.name] = learn(where, running)
            assert running.wait(LONGEST), running.words()
            assert running.gave_up() if form.refused else running.said_so(), running.words()
            where.where.wait_until_free(LONGEST)
            assert scratch.thaw(where.foreign.mount)
            assert not undisturbed(where, form)
    return instants


def struck(lanes: list[Lane], blows: list[Blow]) -> list[Outcome]:
    """Strike them all, on all lanes side by side."""
    waiting: queue.SimpleQueue[tuple[int, Blow]] = queue.SimpleQueue()
    for numbered in enumerate(blows, 1):
        waiting.put(numbered)
    outcomes: list[Outcome] = []

    def work(where: Lane) -> None:
        while not waiting.empty():
            try:
                number, blow = waiting.get_nowait()
            except queue.Empty:
                return
            form = FORM_BY_NAME[blow.form]
            try:
                with form.ready(where):
                    outcome = suffer(where, form, blow)
            except Exception as error:  # noqa: BLE001 - one blow's failure must not hide the others
                where.thaw()
                where.mend()
                outcome = Outcome(
                    blow, wrong=[f"{type(error).__name__}: {error}"], words=traceback.format_exc()
                )
            outcomes.append(outcome)
            say(outcome.line(number))

    threads = [threading.Thread(target=work, args=(where,)) for where in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def grace_periods() -> str:
    """The kernel's setting that a freeze may change meanwhile (app/host/grace.py); "" where it has none."""
    try:
        with open("/sys/kernel/rcu_expedited", encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def say(text: str) -> None:
    print(text, flush=True, file=sys.stderr)
