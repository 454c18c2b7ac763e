"""What the compiled scripts may not depend on."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from app.compiler.scripts import post_script, pre_script


@pytest.mark.parametrize("make", [pre_script, post_script])
def test_a_script_does_not_depend_on_the_name_it_is_called_by(make: Callable[..., str]) -> None:
    """A rehearsal runs it by the descriptor that was checked, and the extension by its path."""
    text = make(binary="/b", directory="/d", limit=1)
    assert not re.search(r"\$0|\$\{0|BASH_SOURCE|dirname", text)
