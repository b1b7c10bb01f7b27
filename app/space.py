"""Put the app on a Hugging Face Space: `make space REPO_ID=you/mdt-studio`, and again to bring it up to date.

Hardware, secrets and who may see it are the owner's: what was chosen on the Space's page stays.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, get_token

from mdt_core.command.parser import Parser
from mdt_core.weights.hub import one_line

ROOT = Path(__file__).parents[1]
# docs: what README.md, the Space's page, shows and links to
NEEDED = ("README.md", "LICENSE", "requirements.txt", "app.py", "app", "mdt_core", "train", "assets", "docs")


def needed_files() -> list[str]:
    """What the app needs of this repository, as paths from its root; what Python and Gradio wrote is left out."""
    files = [path for name in NEEDED for path in (ROOT / name, *(ROOT / name).rglob("*")) if path.is_file()]
    return sorted(path.relative_to(ROOT).as_posix() for path in files if path.suffix not in (".pyc", ".pyi"))


def upload(repo_id: str) -> str:
    """Make the Space `NAME` or `OWNER/NAME` where there is none, and make its files those that are needed. Its address.

    Raises:
        ValueError: nobody is logged in, or the hub refuses.
    """
    if get_token() is None:
        raise ValueError("the hub does not know you: say `hf auth login`, or set HF_TOKEN to a token that may write")
    hub = HfApi()
    try:
        space = hub.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
        hub.upload_folder(
            repo_id=space.repo_id,
            repo_type="space",
            folder_path=ROOT,
            allow_patterns=needed_files(),
            delete_patterns=["app/*", "mdt_core/*", "train/*"],  # of an older version: what is not uploaded again goes
            commit_message="MDT Studio",
        )
    except Exception as error:  # unreachable, no right to write: the hub's transports have no common base class
        raise ValueError(f"the hub did not take {repo_id}: {one_line(error)}") from error
    return str(space)


def main(arguments: Sequence[str] | None = None) -> None:
    """Upload, and say where the app is."""
    parser = Parser(prog="python -m app.space", description=__doc__)
    parser.add_argument("repo_id", metavar="REPO_ID", help="the Space, as in you/mdt-studio")
    parser.run(lambda options: print(f"The app builds at {upload(options.repo_id)}"), arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
