"""The app as it is served to others: behind a proxy under a path, and as tools for a language model."""

import base64
import io
import re
import runpy
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from gradio_client import Client
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from app.hosting.serving import Serving
from app.ui import build, launch
from tests.app.test_app_inpaint import MASK, PICTURE, make_engine
from tests.helpers.apart import run_apart

ROOT = Path(__file__).parents[2]
PATH = "/tools/studio"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the app, told that it stands under PATH, with its tools."""
    pytest.importorskip("mcp", reason="pip install -r requirements-extra.txt: the tools need the package mcp")
    demo = build(make_engine()[0], Path("runs"))
    _, url, _ = launch(
        demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, root_path=PATH, mcp_server=True
    )
    yield url
    demo.close()


@pytest.fixture(scope="module")
def proxied(address: str) -> Iterator[str]:
    """The address under which a proxy serves the app: it takes PATH off and passes everything on, as nginx does."""

    async def forward(request: Request) -> StreamingResponse:
        client = httpx.AsyncClient(base_url=address, timeout=60)
        call = client.build_request(
            request.method,
            request.url.path.removeprefix(f"{PATH}/"),
            params=request.query_params,
            headers=request.headers.raw,
            content=await request.body(),
        )
        answer = await client.send(call, stream=True)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, answer.headers)

    app = Starlette(routes=[Route(PATH + "/{rest:path}", forward, methods=["GET", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}{PATH}/"
    server.should_exit = server.force_exit = True
    thread.join(20)


def test_the_page_and_its_files_come_through_a_proxy_under_a_path(proxied: str) -> None:
    """Catches a page that asks the proxy's root for its scripts, and a root path that does not arrive."""
    page = urllib.request.urlopen(proxied).read().decode()
    assert f'"root":"{proxied.rstrip("/")}"' in page.replace('": "', '":"')
    files = set(re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page))
    assert files
    for file in files:
        assert file.startswith("./"), file
        assert urllib.request.urlopen(proxied + file.removeprefix("./")).status == 200


def test_the_api_works_behind_a_proxy(proxied: str, tmp_path: Path) -> None:
    """Catches an upload, an event or a result that leaves the path."""
    client = Client(proxied, verbose=False, download_files=tmp_path)
    (file,) = client.predict("square", seed=3, num_inference_steps=1, api_name="/generate")
    assert Image.open(file).size == (32, 32)


async def call(address: str, tool: str | None = None, **arguments: object):
    """The tools of a server, or the answer of one."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await (session.call_tool(tool, arguments) if tool else session.list_tools())


def as_text(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def link(answer) -> str:
    """Where the first picture of an answer can be fetched."""
    assert not answer.isError, answer
    return re.search(r"'url': '([^']+)'", answer.content[0].text)[1]


def test_generate_and_inpaint_are_the_tools(address: str) -> None:
    """Catches the page's glue among the tools, and a tool without a word on what it does."""
    tools = {tool.name: tool for tool in run_apart(call(address)).tools}
    assert list(tools) == ["generate", "inpaint"]
    assert tools["generate"].description.startswith("Draw pictures of one class")
    assert tools["inpaint"].description.startswith("Repaint a picture where the mask")
    assert tools["inpaint"].inputSchema["required"] == ["image", "mask"]
    assert {"seed", "num_inference_steps", "guidance_scale"} <= tools["generate"].inputSchema["properties"].keys()


def test_a_tool_answers_with_a_link_to_its_picture(proxied: str) -> None:
    """Catches an answer that names a file of the server, which nobody elsewhere can open."""
    answer = run_apart(call(proxied, "generate", class_label="square", seed=7, num_inference_steps=1))
    assert link(answer).startswith(proxied)
    assert Image.open(urllib.request.urlopen(link(answer))).size == (32, 32)
    painted = {"image": as_text(PICTURE), "mask": as_text(Image.fromarray(MASK))}
    answer = run_apart(call(proxied, "inpaint", **painted, method="repaint", num_inference_steps=1))
    assert Image.open(urllib.request.urlopen(link(answer))).size == PICTURE.size


def test_a_wrong_call_of_a_tool_is_told_what_was_wrong(address: str) -> None:
    answer = run_apart(call(address, "generate", class_label="nobody"))
    assert answer.isError and "No class is called 'nobody'" in answer.content[0].text


def options(*arguments: str):
    return runpy.run_path(str(ROOT / "app.py"))["parse_arguments"](list(arguments))


def test_the_root_path_is_an_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Catches a path that Gradio would take for one beside the page's own address."""
    monkeypatch.delenv("GRADIO_ROOT_PATH", raising=False)
    assert options().root_path == ""
    assert options("--root-path", "/studio/").root_path == "/studio"
    assert options("--root-path", "https://example.org/studio").root_path == "https://example.org/studio"
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/elsewhere")
    assert options().root_path == "/elsewhere"
    with pytest.raises(SystemExit):
        options("--root-path", "studio")
    assert "a root path begins with / or is an address, unlike 'studio'" in capsys.readouterr().err


def test_a_link_for_everybody_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a link that is opened with the limits of one's own machine."""
    monkeypatch.delenv("GRADIO_SHARE", raising=False)
    assert not options().share and options("--share").share
    monkeypatch.setenv("GRADIO_SHARE", "True")
    assert options().share
    assert Serving(share=True).options()["share"] and not Serving().options()["share"]


def test_without_the_package_the_tools_end_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Catches an app that starts all the same, without tools."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "app.py"))["main"](["--mcp"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("app.py: --mcp needs a package: pip install -r requirements-extra.txt")
