"""Requests, standard inputs, private files: the other places where a secret may stand."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass

import pytest

from app import masking
from app.mechanisms import StepFailed, Waiter, command, session
from app.plan import Step
from tests import web
from tests.integration.secrets.hiding import check_hidden, secret_file
from tests.integration.stage import Stage

pytestmark = [pytest.mark.integration, pytest.mark.root]


def test_headers_and_body_of_requests(here: Stage, canary: str) -> None:
    name = f"canary{os.urandom(8).hex()}"
    file = secret_file(here, name)
    with web.web() as server:
        for path in ("/hold", "/release"):
            server.says(path, f"you said {name}", status=200)
        policy = here.policy(
            f"""
            name = "api"
            [secrets.token]
            file = "{file}"
            [http]
            url = "{server.url}"
            headers = {{ Authorization = "Bearer {{token}}", X-Braces = "{{{{}}}}" }}
            [[quiesce]]
            mechanism = "http"
            method = "POST"
            path = "/hold"
            body = '{{{{"key": {{token:json}}}}}}'
            expect = '^you said'
            [[verify]]
            mechanism = "http"
            path = "/hold"
            proof = true
            [[release]]
            mechanism = "http"
            method = "DELETE"
            path = "/release"
            expect = 'nothing like it'
            [[recover]]
            mechanism = "http"
            path = "/release"
            [freeze]
            enabled = false
            [snapshot]
            provider = "none"
            """
        )
        cycle = here.start("run", "--json", policy)
        assert cycle.wait() == 1
    (hold, *_) = server.seen
    assert hold[2]["authorization"] == f"Bearer {name}"
    assert hold[2]["x-braces"] == "{}"
    assert json.loads(hold[3]) == {"key": name}
    assert "answered 'you said [secret]'" in cycle.output
    check_hidden(here, cycle, name, held=False)


def connected(options: dict[str, object], secret: str) -> session.SessionConnection:
    masking.remember(secret)
    return session.connect(options, [], Waiter(), lambda pid: None, time.monotonic() + 10)


def test_a_client_that_repeats_what_is_typed_is_masked(canary: str) -> None:
    """With -v the shell says every line that it reads."""
    canary = canary.replace("#", "")  # what comes after it would not be run
    options: dict[str, object] = {"argv": ["sh", "-v"], "mark": "echo {mark} $?", "failed": "^{mark} [1-9]"}
    with pytest.raises(StepFailed) as caught:
        connected({**options, "login": [f": {'x' * 290} '{canary}'; false"]}, canary)
    assert "login, statement 1" in str(caught.value)
    assert canary[-22:] not in str(caught.value)
    with pytest.raises(StepFailed) as caught:
        connected({**options, "login": ["exit 3"], "begin": [f"'{canary}'"]}, canary)
    assert canary[-22:] not in str(caught.value)


def test_standard_input_of_a_command(canary: str) -> None:
    step = Step("command", {"argv": ["cat"], "stdin": canary})
    with contextlib.closing(_Closing(command.connect({}, [step], Waiter(), lambda pid: None, 0))) as opened:
        assert opened.link.perform(step, time.monotonic() + 5) == canary


def test_private_files_of_a_command_are_its_user_s(canary: str) -> None:
    step = Step(
        "command", {"argv": ["sh", "-c", "id -un; cat {one} {two}; stat -Lc '%U %a' {one}; echo >{one}"]}
    )
    options = {"user": "nobody", "files": {"one": canary, "two": "{braces}"}}
    with (
        contextlib.closing(
            _Closing(command.connect(options, [step], Waiter(), lambda pid: None, 0))
        ) as opened,
        pytest.raises(StepFailed) as caught,
    ):
        opened.link.perform(step, time.monotonic() + 5)
    assert f"nobody {canary}{{braces}}nobody 600" in str(caught.value)
    assert "Operation not permitted" in str(caught.value), "it is sealed"


@dataclass
class _Closing:
    link: command.CommandConnection

    def close(self) -> None:
        self.link.close(0)


def test_an_answer_that_holds_a_secret_is_not_saved(here: Stage) -> None:
    name = f"canary{os.urandom(8).hex()}"
    file = secret_file(here, name)
    policy = here.policy(
        f"""
        name = "leaky"
        level = "crash"
        [secrets.password]
        file = "{file}"
        [[quiesce]]
        mechanism = "command"
        argv = ["cat"]
        stdin = "{{password}}"
        save = "said"
        [[release]]
        mechanism = "command"
        argv = ["true"]
        [[recover]]
        mechanism = "command"
        argv = ["true"]
        [timing]
        retries = 0
        [freeze]
        enabled = false
        [snapshot]
        provider = "none"
        """
    )
    cycle = here.start("run", "--json", policy)
    cycle.wait()
    assert "the answer holds a secret" in cycle.output
    check_hidden(here, cycle, name, held=False)
