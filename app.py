"""MDT Studio: `python app.py` opens the shipped model in the browser.

python app.py --model PATH_OR_ID --runs runs/ --host 127.0.0.1 --port 7860 [--root-path /studio] [--share] [--mcp]
"""

import argparse
import importlib.util
import os
import sys
from functools import partial
from pathlib import Path

from app.hosting.ending import run_to_the_end
from app.hosting.scratch import Scratch
from mdt_core.command.parser import Parser, add_device_options, number

DEFAULT = Path(__file__).parent / "assets" / "models" / "avatars"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; host, port and path default to what Gradio reads in the environment, as on a Space."""
    parser = Parser(prog="app.py", description="Masked diffusion transformers in the browser.")
    parser.add_argument(
        "--model",
        default=str(DEFAULT),
        metavar="PATH_OR_ID",
        help="pipeline folder, checkpoint, published file or hub id",
    )
    parser.add_argument("--runs", default="runs", type=Path, metavar="FOLDER", help="training runs to look at")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", default=os.environ.get("GRADIO_SERVER_PORT", "7860"), type=port)
    parser.add_argument(
        "--root-path",
        default=os.environ.get("GRADIO_ROOT_PATH", ""),
        type=root_path,
        metavar="PATH",
        help="where a proxy serves the app: /studio, or the whole address",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        default=os.environ.get("GRADIO_SHARE", "").lower() == "true",
        help="open a link for everybody, for a few days, by Gradio's own servers",
    )
    parser.add_argument("--no-live", action="store_true", help="draw nothing live until a visitor turns it on")
    parser.add_argument("--teach", action="store_true", help="the tab Teach also where others come in")
    parser.add_argument("--mcp", action="store_true", help="offer generate and inpaint as tools (MCP)")
    parser.add_argument(
        "--max-run",
        type=number(int, 1),
        metavar="STEPS",
        help="steps of one run at most, each picture's counted (16000; 8000 where others come in)",
    )
    add_device_options(parser)
    return parser.parse_args(arguments)


def port(text: str) -> int:
    """A port as it was typed. argparse.ArgumentTypeError where it is none."""
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")


def root_path(text: str) -> str:
    """A path or address under which a proxy serves the app. argparse.ArgumentTypeError where it is neither."""
    if text == "" or text.startswith(("/", "http://", "https://")):
        return text.rstrip("/")
    raise argparse.ArgumentTypeError(f"a root path begins with / or is an address, unlike {text!r}")


def main(arguments: list[str] | None = None, scratch: Scratch | None = None) -> None:
    """Build the page and serve it until interrupted. What cannot be had, a model or port, say, ends it in one line.

    `scratch`: the folder of all temporary files, which is then kept small.
    """
    options = parse_arguments(arguments)
    os.environ["GRADIO_SERVER_PORT"] = str(options.port)  # Gradio, when it is imported, stumbles over what is no port
    # Threads that wait leave the cores to the browser beside them; torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here: a wrong option, or --help, waits for no library. And in this order: on a ZeroGPU Space the package
    # `spaces` has to be there before torch is.
    import app.engine.zero_gpu  # noqa: F401 # isort: skip
    from app.engine.engine import Engine
    from app.engine.models import SHIPPED_RUNS, Models, find_models
    from app.engine.turns import Turns
    from app.hosting.limits import MIB
    from app.hosting.serving import Serving
    from app.ui import build, launch
    from mdt_core.acceleration.machine import use_own_cores

    try:
        if options.mcp and importlib.util.find_spec("mcp") is None:
            raise ValueError("--mcp needs a package: pip install -r requirements-extra.txt -c constraints.txt")
        models = Models(find_models(options.model), runs=(options.runs, SHIPPED_RUNS))
        use_own_cores()
        serving = Serving(options.host, options.root_path, options.share, options.teach)
        limits = serving.prepare()
        if scratch:
            scratch.keep_small(limits.temporary_files * MIB)
        engine = Engine(
            models,
            device=options.device,
            dtype=options.dtype,
            compile=options.compile,
            turns=Turns(per_visitor=limits.runs),
            longest_run=options.max_run or limits.run,
        )
        demo = build(engine, options.runs, live=not options.no_live, teach=serving.teaches)
        print(serving.describe(options.runs), end="", flush=True)
        launch(
            demo,
            serving,
            server_name=options.host,
            server_port=options.port,
            root_path=options.root_path,
            mcp_server=options.mcp or None,  # None: what the environment says
            prevent_thread_lock=True,
        )
        engine.warm_in_background(engine.default)
        demo.block_thread()
    except (ValueError, OSError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    scratch = Scratch()
    run_to_the_end(partial(main, scratch=scratch), scratch.remove)
