"""The pre- and the post-script: POSIX sh that dash, busybox and bash run alike.

They hold paths only, quoted for the shell; nothing else of a policy ever enters them. The extension
starts them as ``sh PATH PARAM...``, reads neither stdout nor stderr, never kills them and calls the
post-script whatever the pre-script did, so they are quiet, bounded and idempotent.
"""

from __future__ import annotations

import shlex

_HEAD = """\
#!/bin/sh
# {title} of the Azure Backup script framework, written by stillframe. Do not edit: change
# the policy and run "app compile" again ("app verify" reports any change to this file).
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 077
app={binary}
config={directory}
prefix=${{STILLFRAME_PREFIX:-}}
run=$prefix/run/stillframe
logs=$prefix/var/log

# Nobody reads our pipes, so nothing may stay open on them and nothing may be written to them.
# On some systems others than root can rename what is in /var/log, and put a link to any folder of
# root's in our folder's place: so it is entered first, and looked at then, whether we are in it.
# "command" keeps a redirection that fails from ending the shell.
# shellcheck disable=SC3067 # -O is no POSIX, but dash, busybox and bash all know it
if {{ [ -d "$logs/stillframe" ] || mkdir -p "$logs/stillframe"; }} 2>/dev/null &&
    {{
        cd -P "$logs" && logs=${{PWD%/}} && cd -P ./stillframe &&
            [ "$PWD" = "$logs/stillframe" ] && [ -O . ] && [ ! -h ./{name}.log ] &&
            command : >>./{name}.log
    }} 2>/dev/null; then
    exec </dev/null >>./{name}.log 2>&1
else
    exec </dev/null >/dev/null 2>&1
fi
cd / || exit 1

# Not echo, which in some shells makes line breaks of what it is given.
say() {{
    printf '%s {name}: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"
}}

# Run "$@", and no longer than $limit seconds.
bounded() {{
    "$@" &
    child=$!
    (
        sleep "$limit" &
        nap=$!
        trap 'kill "$nap"; exit 0' TERM
        wait "$nap"
        kill "$child"
        sleep 1
        kill -9 "$child"
    ) 2>/dev/null &
    guard=$!
    wait "$child"
    status=$?
    kill "$guard" 2>/dev/null
    wait "$guard" 2>/dev/null
    return "$status"
}}
"""

_TELL = """
# Tell the holder "$1"; sets status and words, or fails if there is no holder.
# The answer is opened for reading and writing first, which never blocks, then for reading alone:
# so a holder that dies ends the read.
tell() {{
    [ -p "$run/control" ] && [ -p "$run/answer" ] || return 1
    {{
        exec 5<"$run/answer" 4>&-
        echo "$1" >&3
        exec 3>&-
        read -r status words <&5 || return 1
    }} 3<>"$run/control" 4<>"$run/answer"
    case $status in
        '' | *[!0-9]*) return 1 ;;
    esac
}}
"""

_PRE = """
limit={limit}
# Killed, we count as failed and the backup goes on, so that nothing quiesced later is in the snapshot.
STILLFRAME_SCRIPT=$$
export STILLFRAME_SCRIPT
bounded "$app" pre --config "$config" -- "$@"
code=$?
say "exit $code"
if [ "$code" -gt 128 ] && tell abandon 2>/dev/null; then
    # The hold may stand, but its client was killed before it could say so.
    say "released after a failure: $words"
    code=1
fi
exit "$code"
"""

_POST = """
limit={limit}
status=
words=
if tell release 2>/dev/null; then
    say "$words"
else
    # No holder answers: it has ended, or died. The binary knows, or finds out.
    bounded "$app" post --config "$config" -- "$@"
    status=$?
fi
say "exit $status"
exit "$status"
"""


def pre_script(*, binary: str, directory: str, limit: int) -> str:
    """The pre-script: holds, within ``limit`` seconds, or fails with nothing held."""
    head = _HEAD.format(
        title="The pre-script", name="pre", binary=shlex.quote(binary), directory=shlex.quote(directory)
    )
    return head + _TELL.format() + _PRE.format(limit=limit)


def post_script(*, binary: str, directory: str, limit: int) -> str:
    """The post-script: releases, within ``limit`` seconds, and fails if the hold was broken."""
    head = _HEAD.format(
        title="The post-script", name="post", binary=shlex.quote(binary), directory=shlex.quote(directory)
    )
    return head + _TELL.format() + _POST.format(limit=limit)
