"""``app recover``: what a hold that died left behind."""

from __future__ import annotations

import sys

import click

from app import hold, recovery
from app.cli.output import emit, json_option
from app.errors import Exit
from app.paths import paths


@click.command()
@click.option("--forget", is_flag=True, help="Give up what cannot be released: it stays as it is now.")
@json_option
def command(forget: bool, as_json: bool) -> None:
    """Thaw and release what a hold that died, or a reboot in its midst, left behind.

    Safe to run at any time, at every boot for instance: it does nothing while a hold is running
    (exit status 5) or when nothing is left. Exit status 7 if something could not be released: it is tried
    again by every later run and backup, which hold nothing before it is done.
    """
    where = paths()
    hold.prepare_folders(where)
    hold.take_lock(where)
    found = recovery.recover(where)
    if found is None:
        emit({"thawed": [], "released": [], "left": []}, "nothing was left behind", as_json)
        return
    if forget and found["left"]:
        found["forgotten"] = recovery.forget(where)
        found["left"] = [name for name in found["left"] if name not in found["forgotten"]]
    lines = [f"{path}: thawed" for path in found["thawed"]]
    lines += [f"{name}: released" for name in found["released"]]
    lines += [f"{name}: given up, as it is" for name in found.get("forgotten", ())]
    lines += [f"{name}: could NOT be released; app report says why" for name in found["left"]]
    emit(found, "\n".join(lines) or "an earlier hold had died; nothing of it was left", as_json)
    sys.exit(int(Exit.STUCK if found["left"] else Exit.DONE))
