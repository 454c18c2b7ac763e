"""``[secrets]``: where each is read at run time, and where in a policy its name may stand."""

from __future__ import annotations

from app import mechanisms
from app.compiler.resolve import Resolver
from app.plan import Secret
from app.policy import Policy
from app.policy.findings import Findings
from app.policy.locate import Key
from app.policy.schema import SOURCES, secret_schema
from app.policy.settings import RESERVED, normal_path
from app.policy.validation import check_part
from app.policy.wording import show


def build_secrets(policy: Policy, findings: Findings) -> dict[str, Secret]:
    """The secrets of a policy by name; none of their values is known here, nor ever in a plan."""
    resolver = Resolver(policy, findings)
    found: dict[str, Secret] = {}
    for name, table in sorted(resolver.secret_tables.items()):
        path: tuple[Key, ...] = ("secrets", name)
        _check_name(name, path, policy, findings)
        if len([key for key in SOURCES if key in table]) != 1 and not policy.damaged(*path):
            findings.add(
                policy.root,
                path,
                f"names {_listed(table)}",
                f"exactly one of {', '.join(SOURCES)} says where it is",
            )
        source = resolver.value(table, secret_schema(), path)
        if not policy.unsettled and not policy.damaged(*path):
            check_part(secret_schema(), source, policy.root, path, findings)
        file = source.get("file", "")
        if "file" in source and not policy.unsettled and not normal_path(file):
            findings.add(
                policy.root, (*path, "file"), f"{show(file)} is not a full, normal path", "no //, . or .."
            )
        found[name] = Secret(file, source.get("credential", ""), tuple(source.get("command", ())))
    _check_files(policy, findings)
    return found


def _listed(table: dict[str, object]) -> str:
    return " and ".join(key for key in SOURCES if key in table) or "no source"


def _check_name(name: str, path: tuple[Key, ...], policy: Policy, findings: Findings) -> None:
    if name in policy.settings or name in RESERVED:
        what = "a setting" if name in policy.settings else "a placeholder of the run"
        findings.add(policy.root, path, f"{name} is {what} too", "choose another name for the secret")


def _check_files(policy: Policy, findings: Findings) -> None:
    """Names of private files are placeholders as well; programs behind another one see none of them."""
    secrets = policy.data.get("secrets", {})
    for mechanism in mechanisms.names():
        table = policy.data.get(mechanism, {})
        for name in table.get("files", {}):
            where: tuple[Key, ...] = (mechanism, "files", name)
            # In the place of a path that the policy lets one set, so that argv need not be written again.
            declared = policy.data.get("settings", {}).get(name, {}).get("type", "path")
            if declared != "path" or name in RESERVED or name in secrets:
                findings.add(
                    policy.root,
                    where,
                    f"{name} has another meaning already",
                    "choose another name, or that of a setting of type path, in whose place the file stands",
                )
        if table.get("files") and table.get("through") and not policy.unsettled:
            resolved = Resolver(policy, findings).value(table["through"], {}, (mechanism, "through"))
            if resolved:
                findings.add(
                    policy.root,
                    (mechanism, "files"),
                    "cannot be seen by programs behind through",
                    "log in there by login, or by a user or an option file of the container's own",
                )
