"""What the extension starts imports nothing of the policy's side, nor click, not even by a package."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

FORBIDDEN = ("click", "jsonschema", "tomllib", "tomli_w", "app.policy", "app.compiler", "configparser")


@pytest.mark.parametrize("command", ["pre", "post"])
def test_the_way_of_the_extension(command: str) -> None:
    code = (
        f"import sys; sys.argv = ['app', {command!r}, '--help']\n"
        "from app.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as leaving: assert leaving.code == 0\n"
        "import app.holder, app.watchdog, app.keeper\n"
        f"print(sorted(set(sys.modules) & set({FORBIDDEN!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
