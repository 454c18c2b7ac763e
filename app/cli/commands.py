"""The commands of ``app``, each imported only when it is called.

Every command module has an attribute ``command``.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback

import click

from app import BANNER, __version__
from app.cli.output import tell
from app.errors import Exit, StillframeError

COMMANDS = {
    "compile": "Turn policies into the framework's files.",
    "detect": "Find the servers that run here, and write a policy for each.",
    "doctor": "Find what on this machine could make a hold fail or hang.",
    "explain": "Say in plain words what will happen, in order, and on each failure.",
    "init": "Write a commented policy with only what one must decide.",
    "install": "Put this binary, its man pages and its completions on a VM or into an image.",
    "post": "Release what pre holds (called by the post-script).",
    "pre": "Quiesce and hold (called by the pre-script).",
    "prove": "Start an application on a restored copy and check it.",
    "recover": "Thaw and release what a crash left behind.",
    "rehearse": "Run the compiled scripts as the Azure Backup extension would.",
    "report": "Show what earlier holds achieved.",
    "run": "Quiesce, freeze, snapshot, thaw, release, report.",
    "schema": "Print the JSON Schema of a policy.",
    "status": "Show what is held and frozen just now.",
    "thaw": "Thaw what we froze, or with --all everything.",
    "uninstall": "Remove what install wrote.",
    "validate": "Check policies and say everything that is wrong.",
    "verify": "Check owners, modes, digests and locations on this VM.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"app.cli.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="app", message=BANNER)
@click.option("--debug", is_flag=True, help="Show a traceback where something goes wrong.")
def group(debug: bool) -> None:
    """Application-consistent snapshots of Linux VMs: one policy file, one binary."""
    if debug:
        os.environ["STILLFRAME_DEBUG"] = "1"


def main() -> None:
    """Run a command and turn every outcome into one clear message and an exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            # Whoever stops us like this wants what Ctrl-C does: everything let go in good order.
            signal.signal(number, signal.default_int_handler)
    try:
        if "_APP_COMPLETE" in os.environ:
            from app.cli import completion

            completion.register()
        # Outside standalone mode click returns the code of an Exit instead of raising it.
        status = int(group.main(standalone_mode=False, prog_name="app") or 0)
    except click.Abort:
        status = Exit.INTERRUPTED
        tell("interrupted")
    except KeyboardInterrupt:
        status = Exit.INTERRUPTED
        tell("interrupted")
    except click.ClickException as error:
        error.show()
        status = Exit.USAGE
    except BrokenPipeError:
        # Whoever read us has gone: nothing is left to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = Exit.DIFFERS
    except StillframeError as error:
        tell(f"error: {error}")
        status = error.status
        _trace()
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        tell(f"error: {place}{error.strerror or error}")
        status = Exit.HOST
        _trace()
    except Exception as error:  # noqa: BLE001 - the last line of defence: never a traceback unasked
        tell(f"internal error: {type(error).__name__}: {error}")
        tell("  hint: this is a bug of stillframe's; app --debug shows where")
        status = Exit.DIFFERS
        _trace()
    sys.exit(status)


def _trace() -> None:
    if os.environ.get("STILLFRAME_DEBUG"):
        tell(traceback.format_exc().rstrip())
