"""How the one file starts: from anywhere, leaving nothing, and believing nothing that stands around it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

POLICY = 'version = 1\nname = "plain"\nextends = "filesystem"\n'
EVIL = "import os\nos.write(2, b'PLANTED')\nos._exit(77)\n"


def _run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60} | more
    return subprocess.run([str(word) for word in command], **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "plain.toml"
    path.write_text(POLICY)
    return path


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TMPDIR": "/nonexistent"},
        {"TMPDIR": "relative", "HOME": ""},
        {"LC_ALL": "xx_YY.nonsense"},
        {"PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nonexistent"},
        {"LD_LIBRARY_PATH": "/nonexistent", "_PYI_ARCHIVE_FILE": "/x", "_PYI_PARENT_PROCESS_LEVEL": "7"},
    ],
    ids=str,
)
def test_any_environment_does(app: Path, policy: Path, environment: dict[str, str]) -> None:
    done = _run(app, "validate", policy, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_beside_it_is_ever_imported(app: Path, policy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    for place in (folder, folder / "app.d", folder / "_internal", folder / "lib", folder / "lib/python3.13"):
        (place / "encodings").mkdir(parents=True)
        (place / "encodings/__init__.py").write_text(EVIL)
        for name in ("json", "re", "site", "sitecustomize", "usercustomize", "click", "resource", "readline"):
            (place / f"{name}.py").write_text(EVIL)
    (folder / "base_library.zip").write_bytes(b"PK")
    (folder / "pyvenv.cfg").write_text(f"home = {folder}\n")
    (folder / "python313._pth").write_text(".\n")
    shutil.copy(app, folder / "app")
    around = {"PYTHONPATH": str(folder), "PYTHONHOME": str(folder), "PYTHONSTARTUP": str(folder / "re.py")}
    for command in (["--version"], ["validate", policy], ["schema"], ["status"]):
        prefix = {"STILLFRAME_PREFIX": str(tmp_path / "prefix")}
        done = _run(folder / "app", *command, cwd=folder, env=around | prefix)
        assert "PLANTED" not in done.stderr
        assert done.returncode == 0


def test_it_opens_only_itself_and_libc(app: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    traced = _run("strace", "-f", "-e", "trace=file,process", app, "--version").stderr.splitlines()
    opened = [line for line in traced if "O_CREAT" in line or "mkdir" in line or "execve(" in line]
    assert len(opened) == 1, opened  # its own start: no second process, nothing made
    assert not [line for line in traced if "fork(" in line or "vfork(" in line]


def test_closed_standard_streams(app: Path, policy: Path) -> None:
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = _run("sh", "-c", f'"$0" validate "$1" {closed}', app, policy)
        assert done.returncode in (0, 1), (closed, done.stderr)
        assert "Traceback" not in done.stderr


def test_a_reader_that_has_gone(app: Path) -> None:
    done = _run("bash", "-c", '"$0" schema | head -c 1; echo "${PIPESTATUS[0]}"', app)
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith(("0\n", "1\n"))


@pytest.mark.slow
def test_two_hundred_starts_killed_leave_nothing(app: Path, policy: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for number in range(200):
        process = subprocess.Popen(
            [app, "validate", policy],
            env={"TMPDIR": str(temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(number / 200 * 0.15)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not list(temporary.iterdir())


@pytest.mark.root
@pytest.mark.parametrize("options", ["ro", "noexec", "size=4k"])
def test_tmp_that_is_of_no_use(app: Path, policy: Path, options: str, as_root: None) -> None:
    script = (
        f"mount -t tmpfs -o {options} tmpfs /tmp; head -c 9999 /dev/zero >/tmp/full;"
        ' mount -t tmpfs -o ro,noexec tmpfs /dev/shm; "$0" schema'
    )
    kept = Path("/var/tmp") / f"stillframe-test-{os.getpid()}"
    shutil.copy(app, kept)
    try:
        done = _run("unshare", "--mount", "sh", "-c", script, kept)
    finally:
        kept.unlink()
    assert done.returncode == 0
    assert done.stdout.startswith("{")
