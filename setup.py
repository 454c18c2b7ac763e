"""Lists the packages; everything else about the project stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithPolicies(build_py):
    """Puts ``policies/`` of the tree at ``app/policies`` of the wheel."""

    def run(self) -> None:
        """Copy the policies after the modules; an editable install reads them from the tree."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "app", "policies")
        target.mkdir(parents=True, exist_ok=True)
        for policy in sorted((HERE / "policies").glob("*.toml")):
            shutil.copyfile(policy, target / policy.name)


setup(packages=find_packages(str(HERE), include=["app", "app.*"]), cmdclass={"build_py": BuildWithPolicies})
