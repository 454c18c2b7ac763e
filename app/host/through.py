"""Programs behind another one, such as ``podman exec``: in a container, a namespace, another root.

Whoever stands before a program need not take it along when it is killed: a container's engine lets it
run on. What does reach it is the end of its standard input, so that is the lifeline: a shell beside the
program waits for it, and ends the program then.

All of it is for the shell of POSIX, since a container has its own (dash, bash and busybox are tested).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_COMMAND = """\
count=$1
shift
exec 3<&0 </dev/null
group=0
read -r pid name state parent group rest </proc/$$/stat 2>/dev/null
input=$(dd bs=1 count="$count" <&3 2>/dev/null; echo x)
printf %s "${input%x}" | exec "$@" 3<&- &
program=$!
(
    read -r line
    [ "$group" -gt 0 ] && kill -KILL 0
    kill -KILL "$program"
) <&3 >/dev/null 2>&1 &
lifeline=$!
exec 3<&-
wait "$program"
status=$?
kill "$lifeline" 2>/dev/null
wait "$lifeline" 2>/dev/null
exit "$status"
"""
# The program's input comes first, counted, and nobody writes after it: what is read then is the end. printf
# is the shell's own, so no argument shows the input. A group of 0 belongs to another pid namespace, and is
# not ours to end.

_SESSION = """\
echo "$1-$$"
shift
exec "$@"
"""

_LIFELINE = """\
read -r line && exit 0
kill -INT "$1" 2>/dev/null || exit 0
for turn in 1 2 3 4; do
    sleep 0.1 2>/dev/null || sleep 1
    kill -0 "$1" 2>/dev/null || exit 0
done
kill -KILL "$1" 2>/dev/null
"""


def command(
    through: Sequence[str], argv: Sequence[str], environment: Mapping[str, str], count: int
) -> tuple[str, ...]:
    """What runs ``argv`` behind ``through``, once.

    ``count`` bytes of standard input are for the program. After them it must stay open until the program
    has ended: with it the program ends, and all that it started.
    """
    return (*through, *_environment(environment), "sh", "-c", _COMMAND, "sh", str(count), *argv)


def session(
    through: Sequence[str], argv: Sequence[str], environment: Mapping[str, str], mark: str
) -> tuple[str, ...]:
    """What runs ``argv`` behind ``through`` and first says ``MARK-PID`` on a line; see ``lifeline``."""
    return (*through, *_environment(environment), "sh", "-c", _SESSION, "sh", mark, *argv)


def lifeline(through: Sequence[str], pid: int) -> tuple[str, ...]:
    """What ends the program ``pid`` behind ``through`` when its own standard input ends without a line.

    SIGINT first, on which clients cancel their statement at the server, then SIGKILL.
    """
    return (*through, "sh", "-c", _LIFELINE, "sh", str(pid))


def probe(through: Sequence[str]) -> tuple[str, ...]:
    """What repeats a line of standard input if programs can be run behind ``through`` as needed."""
    return (*through, "env", "sh", "-c", 'read -r line && echo "$line"')


def _environment(environment: Mapping[str, str]) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in sorted(environment.items()))]
