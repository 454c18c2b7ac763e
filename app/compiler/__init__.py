"""Pure: policies in; plan, configuration, scripts and manifest out. Same policies, same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.compiler.budget import Budget, find_overruns, make_budget
from app.compiler.configuration import compile_files
from app.compiler.locations import check_locations
from app.compiler.order import order_policies
from app.compiler.recipe import build_application
from app.compiler.vm import Agreement, Extension, agree_extension, agree_freeze, agree_hazards, agree_snapshot
from app.paths import CONFIG_DIRECTORY
from app.plan import Framework, Plan
from app.policy import Policy, gather_policies
from app.policy.findings import Findings
from app.policy.source import Read, read_file

__all__ = ["Compiled", "Extension", "compile_files", "compile_paths", "compile_plan", "compile_policies"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan, what only the extension is told, and the time that all of it may take."""

    plan: Plan
    extension: Extension
    budget: Budget


def compile_plan(policies: Sequence[Policy]) -> Plan:
    """The plan of all policies of a VM. Raises PolicyInvalid with every problem at once."""
    return compile_policies(policies).plan


def compile_policies(policies: Sequence[Policy]) -> Compiled:
    """The plan of all policies of a VM, and what surrounds it. Raises PolicyInvalid."""
    findings = Findings()
    compiled = _compile(policies, findings)
    findings.check()
    return compiled


def compile_paths(
    paths: Sequence[str], read: Read = read_file, *, directory: str = CONFIG_DIRECTORY
) -> Compiled:
    """Load and compile. Raises PolicyInvalid with the problems of both at once.

    ``directory``: where the set is to be written, as for compile_files.
    """
    findings = Findings()
    policies = gather_policies(paths, findings, read)
    compiled = _compile(policies, findings, complete=len(policies) == len(paths), directory=directory)
    findings.check()
    return compiled


def _compile(
    policies: Sequence[Policy],
    findings: Findings,
    *,
    complete: bool = True,
    directory: str = CONFIG_DIRECTORY,
) -> Compiled:
    ordered = order_policies(policies, findings, complete=complete)
    agreement = Agreement(ordered, findings)
    applications = tuple(build_application(policy, findings) for policy in ordered)
    freeze = agree_freeze(agreement)
    snapshot = agree_snapshot(agreement)
    extension = agree_extension(agreement, freeze)
    check_locations(agreement, directory)
    timeout = agreement.get("framework", "timeout_seconds")
    budget = make_budget(applications, timeout)
    fails = any(policy.data.get("failure", {}).get("backup") == "fail" for policy in ordered)
    framework = Framework(
        timeout_seconds=budget.timeout_seconds,
        poll_seconds=agreement.get("framework", "poll_seconds", 1),
        continue_backup_on_failure=not fails,
        pre_params=tuple(agreement.get("framework", "pre_params", [])),
        post_params=tuple(agreement.get("framework", "post_params", [])),
        pre_retries=agreement.get("framework", "pre_retries", 0),
        post_retries=agreement.get("framework", "post_retries", 0),
    )
    by_name = {policy.name: policy for policy in ordered}
    for overrun in find_overruns(budget, applications, freeze, given=timeout is not None):
        setter = agreement.setter("framework", "timeout_seconds")
        if overrun.key == "timeout" and setter is not None:
            findings.add(setter.root, ("framework", "timeout_seconds"), overrun.message, overrun.hint)
        else:
            key = ("timing", "hold") if overrun.key == "hold" else ("timing",)
            findings.add(by_name[overrun.application].root, key, overrun.message, overrun.hint)
    plan = Plan(applications, freeze, snapshot, framework, hazards=agree_hazards(agreement))
    return Compiled(plan, extension, budget)
