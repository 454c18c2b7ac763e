"""The VM's image, and the forms of these tests: the short one is part of ``make test``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm import image, systemd
from tests.vm.machine import folder
from tests.vm.units import Cut

FULL = os.environ.get("STILLFRAME_TEST_VM") == "full"
"""Whether all of it is asked for (make test-vm)."""


@pytest.fixture(scope="session")
def vm_image() -> Callable[[str], image.Image]:
    """Builds an image, once for each state of what it is made from: ``vm_image("ext4")``."""
    return lambda kind: _built(lambda binary: image.build(kind, binary))


@pytest.fixture(scope="session")
def systemd_image() -> Callable[..., image.Image]:
    """The same with systemd as init: ``systemd_image("ext4")``; a second argument is a .deb to install."""
    return lambda kind, package=None: _built(lambda binary: systemd.build(kind, binary, package))


@pytest.fixture(scope="session")
def recovered(systemd_image: Callable[..., image.Image]) -> Iterator[Cut]:
    """A guest with systemd, booted again after its power was cut in the midst of a hold."""
    with folder() as place:
        cut = Cut(systemd_image("ext4"), place)
        try:
            yield cut
        finally:
            cut.machine.close()


def _built(build: Callable[[Path], image.Image]) -> image.Image:
    binary = Path(os.environ.get("STILLFRAME_TEST_BINARY") or image.ROOT / "dist/app")
    if not binary.is_file():
        pytest.skip(f"needs {binary}: make binary")
    try:
        return build(binary)
    except image.Unavailable as error:
        pytest.skip(str(error))
