"""The door: every request passes here before Gradio sees it, and is refused in one sentence where it may not be.

Refused are another site's name for this machine (DNS rebinding), pages of Gradio that nobody needs here, too many
requests or files, files that were not uploaded, and whatever Gradio itself stumbles over.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app.common.errors import where
from app.common.images import was_uploaded
from app.hosting.limits import MIB, Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# What else Gradio offers: its monitor, a history of runs, a proxy for other Spaces, tools for those who write an app
CLOSED = re.compile(
    r"/(monitoring|gradio_api/(runs|run-history|proxy=|deep_link|process_recording|component_server|dev|profiling"
    r"|(undo-)?vibe-))"
)
JOIN, UPLOAD, TOOLS = "/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/mcp"
# Gradio's page puts its scripts together with eval
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
MAX_TEXT = 4  # MB of a request that is not an upload
DEEPEST = 64  # lists in lists of a request

log = logging.getLogger("mdt-studio")


class Refused(Exception):
    """A request that may not be: the status of HTTP, and a sentence."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status, self.text = status, text


class Guard:
    """A layer around the app (ASGI).

    Args:
        limits: of a visitor.
        hosts: the names by which the server may be called; None: any.
        framed: whether other sites may show the page in a frame, as Spaces do.
    """

    def __init__(self, app: Any, limits: Limits, hosts: frozenset[str] | None = None, framed: bool = False):
        self.app, self.limits, self.hosts, self.framed = app, limits, hosts, framed
        self.requests = Allowance(limits.requests)
        self.uploads = Allowance(limits.uploads and limits.uploads * MIB)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.add_headers(MutableHeaders(scope=message))
            await send(message)

        try:
            await self.app(scope, await self.check(scope, receive), answer)
        except Exception as error:
            refused = error if isinstance(error, Refused) else Refused(400, "The request makes no sense to this app.")
            if refused is not error:
                log.warning("%s %s: %s", scope["method"], scope["path"][:200], where(error))
            if not started:
                await refusal(refused, scope)(scope, receive, answer)

    async def check(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        """What the app is given of a request. Refused where it may not be."""
        headers, path = Headers(scope=scope), scope["path"].removeprefix(scope.get("root_path", ""))
        self.check_host(f"//{headers.get('host', '')}")
        self.check_host(headers.get("origin", "//localhost"))  # of the page that asks: any page may send files
        if CLOSED.match(path):
            raise Refused(404, "There is no such page.")
        if scope["method"] != "POST":
            return receive
        client = scope["client"][0] if scope.get("client") else ""
        if not self.requests.take(client, 1):
            raise Refused(429, f"{self.limits.requests:g} requests a minute are the most from one address: wait a bit.")
        if path.startswith(UPLOAD):
            return self.counted(headers, client, receive)
        tools = path.startswith(TOOLS)
        body = await read(receive, (2 * self.limits.file_size if tools else MAX_TEXT) * MIB)
        if not tools:  # which hand their files on as a request of their own
            check_files(body, self.limits.fetched)
        return replay(body, receive)

    def check_host(self, address: str) -> None:
        """Refused where another site's page has given this machine its own name, or asks from its own address."""
        try:
            name = urlsplit(address).hostname or ""
        except ValueError:
            name = address
        if self.hosts is not None and name not in self.hosts:
            raise Refused(
                403,
                f"This app is not served under the name {name[:60]!r}: where a proxy does so, start the app with "
                "--root-path and the proxy's whole address.",
            )

    def counted(self, headers: Headers, client: str, receive: Receive) -> Receive:
        """An upload as it comes in, until it is more than may be."""
        boundary = headers.get("content-type", "").partition("boundary=")[2].strip('"').encode()
        limits, parts, tail = self.limits, 0, b""

        async def counted() -> Message:
            nonlocal parts, tail
            message = await receive()
            chunk = message.get("body", b"")
            if not self.uploads.take(client, len(chunk)):
                raise Refused(429, f"{limits.uploads:g} MB a minute are the most from one address: wait a bit.")
            if boundary:  # stands before each part, and after the last
                text = tail + chunk
                parts += text.count(boundary)
                tail = text[-len(boundary) + 1 :]  # too short to be counted again
                if parts > limits.files + 1:
                    raise Refused(413, f"{limits.files} files at once are the most: send fewer.")
            return message

        return counted

    def add_headers(self, headers: MutableHeaders) -> None:
        """What a browser holds the page to."""
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        if not self.framed:
            headers["X-Frame-Options"] = "SAMEORIGIN"
            headers.setdefault("Content-Security-Policy", POLICY)


def refusal(refused: Refused, scope: MutableMapping[str, Any]) -> Response:
    """What a refused request is answered, in the form of which those who asked are shown the sentence.

    Of an upload the page shows the whole answer; of a call Gradio's Python client shows but the status, "403
    Forbidden", unless it is a 422 of this form.
    """
    if scope["path"].endswith(UPLOAD):
        return PlainTextResponse(refused.text, refused.status)
    agent = Headers(scope=scope).get("user-agent", "")
    if agent.startswith("gradio_client") and scope["path"].endswith(JOIN):
        problem = {"__type__": "validate", "is_valid": False, "parameter_name": "request", "message": refused.text}
        return JSONResponse({"detail": [problem], "error": refused.text}, 422)
    return JSONResponse({"detail": refused.text, "error": refused.text}, refused.status)


class Allowance:
    """So much a minute for each client, at most one minute's at once. None: as much as is asked for."""

    MOST_CLIENTS = 10_000  # remembered

    def __init__(self, per_minute: float | None):
        self.per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}  # client -> what was left, and when; the latest at the end

    def take(self, client: str, amount: float) -> bool:
        """Whether the client may have this much more."""
        if self.per_minute is None:
            return True
        now = monotonic()
        left, then = self._left.pop(client, (self.per_minute, now))
        left = min(self.per_minute, left + (now - then) / 60 * self.per_minute)
        allowed = amount <= left
        self._left[client] = left - amount * allowed, now
        if len(self._left) > self.MOST_CLIENTS:
            del self._left[next(iter(self._left))]
        return allowed


async def read(receive: Receive, most: int) -> bytes:
    """The body of a request. Refused where it has more than `most` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            raise Refused(413, f"The request has more than {most // MIB} MB: send pictures as files.")
        if not message.get("more_body"):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """What was read, once more; then what comes after it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def check_files(body: bytes, fetched: bool) -> None:
    """Refused where a file of the request did not come through an upload, or had to be fetched and may not be."""
    try:
        content = json.loads(body or b"null")
    except (ValueError, RecursionError):
        raise Refused(400, "The request is not JSON that can be read.") from None
    for path in paths_in(content):
        if path.lower().startswith(("http:", "https:")):
            if not fetched:
                raise Refused(403, "Files are not fetched from an address here: upload them.")
        elif not was_uploaded(path):
            raise Refused(403, "Only files that were uploaded can be named: upload them first.")


def paths_in(content: Any) -> Iterator[str]:
    """The paths of all files in a request, however deep."""
    level = [content]
    for _ in range(DEEPEST):
        level = [part for part in level if isinstance(part, dict | list)]
        for part in level:
            if isinstance(part, dict) and isinstance(part.get("path"), str):
                yield part["path"]
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return
    raise Refused(400, "The request holds lists in lists, deeper than anything here asks for.")
