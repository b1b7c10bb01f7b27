"""A version that stands in two files is the same in both."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pinned(package: str) -> str:
    """The version of a package that is tested."""
    return re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M)[1]


def test_the_front_matter_is_what_a_space_runs() -> None:
    """Catches a Space that installs another Gradio than the one tested, or a Python that ZeroGPU has not."""
    front = dict(re.findall(r'^(\w+): "?([^"\n]+)"?$', (ROOT / "README.md").read_text("utf-8").split("---")[1], re.M))
    assert (front["sdk"], front["sdk_version"], front["python_version"]) == ("gradio", pinned("gradio"), "3.12")
    assert (ROOT / front["app_file"]).is_file()


def test_a_commit_is_looked_at_by_the_ruff_of_ci() -> None:
    """Catches a hook that formats otherwise than `make lint` wants it."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pinned("ruff")}
