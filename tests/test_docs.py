"""The pages a newcomer reads: what they link to is there, and the commands in them are ours.

Would catch: a link to a page or heading that has moved, a command with an option that is gone, a recipe or setting that
was renamed, a picture that was deleted, and a path of one machine.
"""

import ast
import contextlib
import io
import re
import runpy
import shlex
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest

from train.autoencoder.config import AUTOENCODERS, DECODERS
from train.config import RECIPES
from train.settings import find_recipe

ROOT = Path(__file__).parents[1]
CARD = ROOT / "assets" / "models" / "avatars" / "README.md"
OTHERS = ("README.md", "CONTRIBUTING.md", "train/RESULTS.md", "assets/CREDITS.md")
PAGES = [ROOT / name for name in OTHERS] + [CARD, *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "train" / "LOG.md"]  # of these, commands are of their time

RECIPES_OF = {"train": RECIPES, "train.autoencoder": AUTOENCODERS, "train.autoencoder.decoder": DECODERS}
WITH_COMMANDS = ("mdt_core", "train.convergence")
OURS = ("mdt_core", "train", "app", "tests")
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # that the hub takes


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


def blocks(page: Path, language: str = "") -> list[str]:
    """The blocks of code of a page that are in this language; of none: commands and what they print."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S)
    return [code for of, code in found if of == language]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not link.startswith("http") and (not target.exists() or (anchor and anchor not in anchors(target))):
            dead.append(link)
    return dead


def commands(page: Path) -> list[list[str]]:
    """Every command of a page, as words: from its blocks of no language, and from the pieces of code in its text."""
    lines = "".join(blocks(page)).replace("\\\n", " ").splitlines() + re.findall(r"`([^`\n]+)`", prose(page))
    parts = [part for line in lines for part in re.split(r" && | \|\| |; ", line)]
    return [shlex.split(part, comments=True) for part in parts if re.search(r"-m \w|python app\.py|make \w", part)]


@cache
def help_of(program: str, command: str = "") -> str:
    """What `python -m PROGRAM [COMMAND] --help` prints, without a process of its own."""
    output, before = io.StringIO(), sys.argv
    sys.argv = [program, *([command] if command else []), "--help"]
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a module runs a second time
        try:
            if program.endswith(".py"):
                runpy.run_path(str(ROOT / program), run_name="__main__")
            else:
                runpy.run_module(program, run_name="__main__")
        finally:
            sys.argv = before
    return output.getvalue()


def check_command(words: list[str]) -> None:
    """AssertionError where a module, a subcommand, an option, a recipe, a setting or a target of make is not there."""
    if words[0] == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.M)
        assert words[1] in targets, f"make has no {words[1]}"
        return
    position = words.index("-m") + 1 if "-m" in words else words.index("app.py")
    program, arguments = words[position], words[position + 1 :]
    if program.split(".")[0] not in OURS:
        return
    module = ROOT / program.replace(".", "/")
    assert program == "app.py" or module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), program
    if program.startswith("tests."):  # helpers, some without options
        return
    command = arguments[0] if program in WITH_COMMANDS and arguments and arguments[0].isalpha() else ""
    known = set(re.findall(r"--[\w-]+", help_of(program, command)))
    assert known, f"{program} {command} prints no help"
    options = {word for word in arguments if word.startswith("--")}
    assert options <= known, f"{program} {command} has no {', '.join(options - known)}"
    if program in RECIPES_OF and arguments and not arguments[0].startswith("-") and not arguments[0].isupper():
        start = arguments.index("--set") + 1 if "--set" in arguments else len(arguments)
        find_recipe(RECIPES_OF[program], arguments[0], [word for word in arguments[start:] if "=" in word])


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](#one-heading) [b](#none) ![c](none.png)\n```\n[d](in-code)\n```\n")
    assert dead_links(page) == ["#none", "none.png"]
    page.write_text("```\npython -m train avatars --output-dir runs/x \\\n    --set seed=1  # said so\n```\n")
    assert commands(page) == [["python", "-m", "train", "avatars", "--output-dir", "runs/x", "--set", "seed=1"]]
    for wrong in ("-m train.nothing", "-m mdt_core inpaint --ink", "-m train.evaluate --ink", "app.py --ink"):
        with pytest.raises(AssertionError):
            check_command(f"python {wrong}".split())
    for wrong in ("nothing --output-dir x", "avatars --output-dir x --set ink=1"):
        with pytest.raises(ValueError):
            check_command(f"python -m train {wrong}".split())


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_of_ours(page: Path) -> None:
    for words in commands(page):
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(OURS)}|docs|assets)/[\w./-]+)`", prose(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_a_page_is_python(page: Path) -> None:
    for code in blocks(page, "python"):
        ast.parse(code)


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_no_page_holds_a_path_of_one_machine_or_the_address_of_a_registry(page: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users)/\S+", page.read_text("utf-8")) == []
    assert re.findall(r"\S*\b(?:pypi|npmjs|pythonhosted|index-url)\S*", page.read_text("utf-8")) == []


def test_the_front_page_is_short_and_opens_as_a_space() -> None:
    """Sdk and versions: test_versions.py."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 130
    front = dict(re.findall(r"^(\w+): (.+)$", text.split("---\n")[1], flags=re.M))
    assert {front["colorFrom"], front["colorTo"]} <= COLOURS
    assert (ROOT / front["app_file"]).is_file() and front["license"] == "apache-2.0"
    assert len(front["short_description"]) <= 60
    assert text.index("**App**") < text.index("make app")
