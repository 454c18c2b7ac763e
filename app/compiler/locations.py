"""Where the scripts may be written: on and below no other file of the set, and not where a folder is."""

from __future__ import annotations

from app.compiler.configuration import CONFIG, FOLDER, freeze_config_path, manifest_path
from app.compiler.vm import Agreement

KEYS = {"pre_location": "pre.sh", "post_location": "post.sh"}
"""Of ``[framework]``; and the file of the folder that is ours, where it is absent."""

HOST_CONFIG = "VMSnapshotPluginHost.conf"


def check_locations(agreement: Agreement, directory: str) -> None:
    """A finding for each location that cannot be, where the set is written to ``directory``."""
    directory = directory.rstrip("/")
    own = f"{directory}/{FOLDER}"
    taken = {
        f"{directory}/{CONFIG}": "the framework's config",
        f"{directory}/{HOST_CONFIG}": "the configuration of the extension's own host",
        freeze_config_path(directory): "the extension's freeze settings",
        f"{own}/plan.json": "the plan",
        manifest_path(directory): "the manifest",
    }
    given = {key: agreement.get("framework", key) for key in KEYS}
    for key, name in KEYS.items():
        script = f"the {name.removesuffix('.sh')}-script"
        taken.update({f"{own}/{name}": script} if given[key] is None else {})
    for key, path in given.items():
        setter = agreement.setter("framework", key)
        if path is None or setter is None:
            continue
        wrong = next(filter(None, (_clash(path, place, what) for place, what in taken.items())), "")
        if wrong:
            hint = f"give it a file of its own, such as {own}/{KEYS[key]}"
            agreement.findings.add(setter.root, ("framework", key), wrong, hint)
        taken[path] = key


def _clash(path: str, place: str, what: str) -> str:
    """Why a script cannot be at ``path`` while ``what`` is at ``place``; "" where it can."""
    if path == place:
        return f"is the same file as {what}" if what in KEYS else f"is where {what} is"
    if place.startswith(f"{path}/"):
        return f"is a folder: {what} is below it ({place})"
    return f"is below a file: {what} ({place})" if path.startswith(f"{place}/") else ""
