"""``app pre`` and ``app post``, without click: the extension waits for them, so they start quickly."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback

from app import extension
from app.errors import Exit, Misused, StillframeError
from app.paths import CONFIG_DIRECTORY, paths
from app.text import printable_lines

_HELP = """\
usage: app pre [--config DIR] [-- PARAM...]
       app post [--config DIR] [-- PARAM...]

Called by the scripts that app compile writes for the Azure Backup framework.
pre checks permissions, quiesces every application and leaves them held;
post releases what the holder has not released, and says how the hold ended.

  --config DIR   the framework's folder (default /etc/azure)
"""


def main(argv: list[str]) -> int:
    """Run ``pre`` or ``post``; the exit status."""
    started = time.monotonic()
    try:
        directory = _parse(argv[1:])
        if directory is None:
            sys.stdout.write(_HELP)
            return int(Exit.DONE)
        if argv[0] == "pre":
            extension.pre(directory, paths(), started, _say)
            return int(Exit.DONE)
        return extension.post(directory, paths(), _say)
    except StillframeError as error:
        _say(f"error: {error}")
        _trace()
        return int(error.status)
    except OSError as error:
        _say(f"error: {error.filename or ''}: {error.strerror or error}")
        _trace()
        return int(Exit.HOST)
    except Exception as error:  # noqa: BLE001 - the last line of defence: never a traceback unasked
        _say(f"internal error: {type(error).__name__}: {error}")
        _trace()
        return int(Exit.DIFFERS)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)


def _parse(words: list[str]) -> str | None:
    """The config folder; None if help was asked for. Parameters of the framework's are ignored."""
    directory = CONFIG_DIRECTORY
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if word in ("-h", "--help"):
            return None
        if word == "--config" and rest:
            directory = rest.pop(0)
        elif word.startswith("--config="):
            directory = word.partition("=")[2]
        else:
            raise Misused(f"{word!r} is not understood", "app pre --help")
    return directory


def _say(text: str) -> None:
    # Where nobody reads us, or the log's disk is full, the hold matters more.
    with contextlib.suppress(OSError):
        print(printable_lines(text), file=sys.stderr, flush=True)


def _trace() -> None:
    if os.environ.get("STILLFRAME_DEBUG"):
        _say(traceback.format_exc().rstrip())
