"""A stand-in for the hub, which the real client talks to."""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0" * 40


@contextmanager
def serve_hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Serve repositories, their files by name: environment variables for a process that uses them, files fetched."""
    fetched: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        """The answers that the client's downloads ask for."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            for repository, files in repositories.items():
                about = f"api/models/{repository}"
                if path in (about, f"{about}/revision/main", f"{about}/revision/{COMMIT}"):
                    siblings = [{"rfilename": name} for name in files]
                    return self.answer({"id": repository, "sha": COMMIT, "siblings": siblings})
                if path == f"{about}/tree/{COMMIT}":
                    entries = files.items()
                    return self.answer([{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in entries])
                for revision in ("main", COMMIT):
                    name = path.removeprefix(f"{repository}/resolve/{revision}/")
                    if name in files:
                        if self.command == "GET":
                            fetched.append(name)
                        return self.answer(files[name])
            self.send_error(404)

        do_HEAD = do_GET

        def answer(self, content: object) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{zlib.crc32(body)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
    try:
        yield variables | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}, fetched
    finally:
        server.shutdown()
