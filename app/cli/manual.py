"""Man pages from the same definitions as ``--help``: click's commands in, roff out.

Of our own and not click-man's: that escapes neither backslashes nor leading dots, dates its pages,
and has no room for exit statuses, files and environment. The same tree gives the same bytes.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Iterable, Mapping, Sequence

import click

from app import __version__
from app.errors import Exit
from app.paths import CONFIG_DIRECTORY, PREFIX_VARIABLE, paths

_WHERE = paths({})

EXITS = {
    Exit.DONE: "Done.",
    Exit.DIFFERS: "What stands there differs, or the consistency level asked for was not reached.",
    Exit.USAGE: "Called wrongly.",
    Exit.POLICY: "A policy is invalid.",
    Exit.HOST: "The host is not fit: permissions, hazards.",
    Exit.BUSY: "Another hold is running, or somebody else has frozen a filesystem.",
    Exit.SNAPSHOT: "The snapshot failed; all is thawed and released.",
    Exit.STUCK: "Something could not be thawed or released.",
    Exit.INTERRUPTED: "Interrupted.",
}

FILES = {
    f"{CONFIG_DIRECTORY}/VMSnapshotScriptPluginConfig.json": "The framework's config, by app compile.",
    f"{CONFIG_DIRECTORY}/stillframe/": "The scripts that the framework runs, the plan, and their manifest.",
    f"{_WHERE.run}/": "The journal and the control of a hold in progress.",
    f"{_WHERE.reports}/": "The last hundred reports.",
    _WHERE.outstanding: "What must be released if a hold is lost, across a restart.",
    f"{_WHERE.log}/": "What the two scripts said.",
}

ENVIRONMENT = {
    PREFIX_VARIABLE: f"A folder. {_WHERE.run}, {_WHERE.lib} and {_WHERE.log} are below it: for tests, and "
    "for use without root.",
    "STILLFRAME_DEBUG": "Set: show a traceback where something goes wrong, as app --debug does.",
}

_NAMED = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
_WORD = re.compile(r"(?<![\w-])(--?[\w][\w-]*)|\b([A-Z][A-Z_]+)\b")


def pages(group: click.Group, summaries: Mapping[str, str], binary: str) -> dict[str, str]:
    """Every page by file name: ``app.1`` for the group, ``app-NAME.1`` for each of ``summaries``.

    ``binary``: where the VM keeps the executable.
    """
    context = click.Context(group, info_name="app", **group.context_settings)
    found = {"app.1": _group_page(group, context, summaries, binary)}
    for name, summary in summaries.items():
        command = group.get_command(context, name)
        assert command is not None
        found[f"app-{name}.1"] = _command_page(name, summary, command, context, binary)
    return found


def escape(text: str) -> str:
    """``text`` as roff prints it letter by letter, at the beginning of a line too."""
    parts = [_NAMED.get(c) or (c if c.isascii() else f"\\[u{ord(c):04X}]") for c in text]
    # A dot there would be a request; a quote is a glyph's name already.
    return ("\\&" if text.startswith(".") else "") + "".join(parts)


def _group_page(group: click.Group, context: click.Context, summaries: Mapping[str, str], binary: str) -> str:
    options = _options(group, context)
    synopsis = [*(flag for flag, _ in options), "COMMAND", "[ARGUMENT]..."]
    sections = {
        "DESCRIPTION": _paragraphs(group.help or ""),
        "OPTIONS": _listing(options),
        "COMMANDS": _listing(summaries.items()),
    }
    about = "application-consistent snapshots of Linux VMs"
    return _page("app", about, [synopsis], sections, [f"app-{name}" for name in summaries], binary)


def _command_page(name: str, summary: str, command: click.Command, parent: click.Context, binary: str) -> str:
    if command.context_settings.get("help_option_names") == []:
        synopses, sections = _said_without_click(name)
    else:
        context = click.Context(command, info_name=name, parent=parent)
        options = _options(command, context)
        arguments = [word for word in command.collect_usage_pieces(context) if word != "[OPTIONS]"]
        synopses = [[*(flag for flag, _ in options), *arguments]]
        sections = {"DESCRIPTION": _paragraphs(command.help or ""), "OPTIONS": _listing(options)}
    about = summary[:1].lower() + summary[1:].removesuffix(".")
    return _page(f"app-{name}", about, synopses, sections, ["app"], binary)


def _said_without_click(name: str) -> tuple[list[list[str]], dict[str, list[str]]]:
    """Synopses and sections of a command that reads its own words, from what its --help says."""
    from app.cli import extension

    with contextlib.redirect_stdout(io.StringIO()) as said:
        extension.main([name, "--help"])
    usage, *texts = said.getvalue().strip("\n").split("\n\n")
    lines = [line.replace("usage:", "").split() for line in usage.split("\n")]
    synopses = [[" ".join(line[2:])] for line in lines if line[:2] == ["app", name]]
    described, options = [], []
    for text in texts:
        listed = [re.fullmatch(r"  (-.*?)  +(.*)", line) for line in text.split("\n")]
        options += [(m[1], f"{m[2][:1].upper()}{m[2][1:]}.") for m in listed if m]
        if not any(listed):
            described.append(text)
    return synopses, {"DESCRIPTION": _paragraphs("\n\n".join(described)), "OPTIONS": _listing(options)}


def _page(
    name: str,
    summary: str,
    synopses: Sequence[Sequence[str]],
    sections: Mapping[str, Sequence[str]],
    also: Sequence[str],
    binary: str,
) -> str:
    lines = [
        f'.TH {escape(name)} 1 "" "stillframe {escape(__version__)}" "stillframe"',
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{escape(name)} \\- {escape(summary)}",
        ".SH SYNOPSIS",
    ]
    for words in synopses:
        call = escape(name.replace("app-", "app "))
        lines += [" ".join([f"\\fB{call}\\fP", *map(_usage, words)]), ".br"]
    everywhere = {
        "EXIT STATUS": _listing((str(int(status)), text) for status, text in EXITS.items()),
        "FILES": _listing({binary: "The executable.", **FILES}.items()),
        "ENVIRONMENT": _listing(ENVIRONMENT.items()),
        "SEE ALSO": [", ".join(f"\\fB{escape(page)}\\fP(1)" for page in also)],
    }
    for title, body in {**sections, **everywhere}.items():
        lines += [f".SH {title}", *body]
    return "\n".join(lines) + "\n"


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    """Each option as --help shows it: how it is written, and what it does."""
    # Newer click has records for arguments too, which the description speaks of.
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    records = [option.get_help_record(context) for option in options]
    return [record for record in records if record is not None]


def _usage(word: str) -> str:
    """One word of a synopsis; an option, in brackets, by its longest name, on one line."""
    if not word.startswith("-"):
        return _emphasis(word)
    longest = word.rpartition(", ")[2]
    return f"[{_emphasis(longest)}]".replace(" ", "\\ ")


def _emphasis(text: str) -> str:
    """Options bold and what stands for a value in italics, the rest as it is."""
    parts, end = [], 0
    for match in _WORD.finditer(text):
        font = "B" if match[1] else "I"
        parts += [escape(text[end : match.start()]), f"\\f{font}{escape(match[0])}\\fP"]
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def _listing(entries: Iterable[tuple[str, str]]) -> list[str]:
    lines: list[str] = []
    for term, text in entries:
        marked = _emphasis(term) if term.startswith("-") else f"\\fB{escape(term)}\\fP"
        lines += [".TP", marked, escape(" ".join(text.split()))]
    return lines


def _paragraphs(text: str) -> list[str]:
    """A help text: filled paragraphs; those that click's mark of verbatim text begins, line by line."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(text.partition("\f")[0]).split("\n\n"):
        if lines:
            lines.append(".PP")
        first, *rest = paragraph.split("\n")
        if first.strip() == "\b":
            lines += [".nf", *map(escape, rest), ".fi"]
        else:
            lines.append(escape(" ".join(paragraph.split())))
    return lines
