"""For whom the app is served, what follows from it, and what is said of it at the start."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi.exceptions import RequestValidationError
from gradio.utils import get_space
from PIL import Image
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.common.visitors import is_local
from app.engine.turns import IN_ALL
from app.hosting.guard import Guard
from app.hosting.limits import ALONE, OTHERS, Limits

THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_THREADS = IN_ALL + 64  # those of the runs that wait, and enough for all that is done at once
MAX_SESSIONS = 300  # pages and calls that are remembered: half a megabyte each, and what was made there


@dataclass(frozen=True)
class Serving:
    """Where the app is reached."""

    host: str = "127.0.0.1"
    root_path: str = ""  # of a proxy that serves it, a path or its whole address
    share: bool = False  # whether Gradio opens a tunnel for everybody
    teach: bool = False  # whether anybody who comes in may teach a model

    @property
    def to_others(self) -> bool:
        """Whether anybody but this machine's own user comes in."""
        local = self.host == "localhost" or is_local(self.host)
        return bool(self.root_path or get_space() or self.share or not local)

    @property
    def teaches(self) -> bool:
        """Whether there is the tab Teach: on this machine alone, unless it was asked for."""
        return self.teach or not self.to_others

    @property
    def limits(self) -> Limits:
        """Of a visitor."""
        if not self.to_others:
            return ALONE
        return replace(OTHERS, files=ALONE.files) if self.teach else OTHERS

    @property
    def hosts(self) -> frozenset[str] | None:
        """The names by which the server may be called; None: any, for it has many or a proxy looks after it."""
        name = urlsplit(self.root_path).hostname
        if name and not get_space():
            return THIS_MACHINE | {name}
        return None if self.to_others else THIS_MACHINE

    def prepare(self) -> Limits:
        """Tell the libraries below; the limits."""
        Image.MAX_IMAGE_PIXELS = self.limits.pixels
        if get_space():  # where whoever connects is the Space's own proxy, which tells the visitor's address
            os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")
        return self.limits

    def options(self) -> dict[str, Any]:
        """What `gr.Blocks.launch` is told."""
        guard = Middleware(Guard, limits=self.limits, hosts=self.hosts, framed=get_space() is not None)
        return {
            "app_kwargs": {"middleware": [guard], "exception_handlers": {RequestValidationError: refuse_values}},
            "max_file_size": f"{self.limits.file_size}mb",
            "max_threads": MAX_THREADS,
            "share": self.share,
            "state_session_capacity": MAX_SESSIONS,
            "enable_monitoring": False,
            "run_history": False,  # the tabs have one of pictures and settings; Gradio's keeps every mask and preview
        }

    def describe(self, runs: str | Path) -> str:
        """What is open to whom, in some lines; empty where nobody else comes in."""
        if not self.to_others:
            return ""
        limits = self.limits
        teaching = "teaching models, which fills the disk and takes half of the processor, " if self.teaches else ""
        return (
            "Open to everybody who reaches this address, without a password: drawing and inpainting with every model, "
            f"{teaching}and all runs under {runs}.\n"
            f"One visitor may send {limits.requests:g} requests and {limits.uploads:g} MB a minute, and have "
            f"{limits.runs} runs of {limits.run:,} steps at most. docs/hosting.md tells the rest.\n"
        )


async def refuse_values(request: Request, error: Exception) -> JSONResponse:
    """In place of FastAPI's answer, which repeats what was sent, up to megabytes of it."""
    return JSONResponse({"detail": "The request makes no sense to this app."}, 422)
