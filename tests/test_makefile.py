"""Which Python `make` takes, and what it says where there is none, with stand-ins for the interpreters on PATH."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # make and stand-ins are processes
ROOT = Path(__file__).parents[1]
MAKE = shutil.which("make")
# A Python of a version, with or without ensurepip. `-m venv FOLDER` puts down programs that do nothing.
STAND_IN = """#!/bin/sh
if [ "$1" = -m ]; then
    mkdir -p $3/bin
    for program in python pip; do echo '#!/bin/sh' > $3/bin/$program; chmod +x $3/bin/$program; done
    exit
fi
exec {python} -I -S -c 'import sys; sys.version_info = {version}; {hide}; exec(sys.argv[2])' "$@"
"""
HIDE = 'sys.modules["ensurepip"] = None'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile alone, with a PATH on which no Python is found."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "path").mkdir()
    for tool in ("mkdir", "chmod", "touch"):
        (tmp_path / "path" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def add_python(project: Path, name: str, version: tuple[int, int], ensurepip: bool = True) -> None:
    program = project / "path" / name
    program.write_text(STAND_IN.format(python=sys.executable, version=version, hide="pass" if ensurepip else HIDE))
    program.chmod(0o755)


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [MAKE, *arguments], cwd=project, env={"PATH": str(project / "path")}, capture_output=True, text=True
    )


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_any_python_of_today_is_taken(project: Path, minor: int) -> None:
    """Catches a fresh machine, whose python3 is a newer one, that cannot start the app."""
    add_python(project, "python3", (3, minor))
    done = make(project, "setup")
    assert done.returncode == 0, done.stderr
    assert "making .venv with python3 (once)" in done.stdout


@pytest.mark.parametrize("version", [(3, 10), (3, 15), (2, 7)])
def test_other_pythons_are_passed_over(project: Path, version: tuple[int, int]) -> None:
    """Catches a Python for which the pinned packages have no files: pip would fail after minutes."""
    add_python(project, "python3", version)
    done = make(project, "setup")
    assert done.returncode == 2
    assert "No Python from 3.11 to 3.14 was found: install one (apt install" in done.stderr
    add_python(project, "python3.13", (3, 13))
    assert "with python3.13" in make(project, "setup").stdout


def test_without_any_python_one_line_says_what_to_install(project: Path) -> None:
    """Catches a bare "command not found"."""
    said = make(project, "app").stderr.splitlines()
    assert said[0].startswith("No Python from 3.11 to 3.14 was found") and len(said) == 2  # the second is make's own


def test_a_python_that_was_named_is_looked_at(project: Path) -> None:
    """Catches an environment of a wrong Python, which stays until someone removes it."""
    add_python(project, "python3.9", (3, 9))
    for name in ("python3.9", "nothing"):
        assert f"{name} is no Python from 3.11 to 3.14" in make(project, "setup", f"PYTHON={name}").stderr
    assert not (project / ".venv").exists()


def test_a_python_without_ensurepip_is_the_last_choice(project: Path) -> None:
    """Catches Debian's python3, which has no `venv` until its package is installed: twenty lines, and half a .venv."""
    add_python(project, "python3.11", (3, 11), ensurepip=False)
    done = make(project, "setup")
    assert done.returncode == 2
    assert "its module ensurepip is missing: apt install python3.11-venv" in done.stderr
    add_python(project, "python3", (3, 14))
    assert "with python3 (once)" in make(project, "setup").stdout


def test_a_space_needs_a_name(project: Path) -> None:
    add_python(project, "python3", (3, 12))
    assert "Say where to: make space REPO_ID=you/mdt-studio" in make(project, "space").stderr
