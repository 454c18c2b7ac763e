"""The VM's image, and the forms of these tests: the short one is part of ``make test``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm import image

FULL = os.environ.get("STILLFRAME_TEST_VM") == "full"
"""Whether all of it is asked for (make test-vm)."""


@pytest.fixture(scope="session")
def vm_image() -> Callable[[str], image.Image]:
    """Builds an image, once for each state of what it is made from: ``vm_image("ext4")``."""
    binary = Path(os.environ.get("STILLFRAME_TEST_BINARY") or image.ROOT / "dist/app")

    def build(kind: str) -> image.Image:
        if not binary.is_file():
            pytest.skip(f"needs {binary}: make binary")
        try:
            return image.build(kind, binary)
        except image.Unavailable as error:
            pytest.skip(str(error))

    return build
