"""The page: a header with the model in use, then the tabs, each from a package of its own."""

import html
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app.common import links
from app.common.classes.pictures import picture_sheet
from app.common.errors import plain_errors
from app.common.studio import CHECK, GLUE, Studio
from app.compare.tab import Compare
from app.engine.engine import Engine
from app.engine.model_info import ModelInfo
from app.generate.tab import Generate
from app.hosting.plain_blocks import PlainBlocks
from app.hosting.serving import Serving
from app.inpaint.tab import Inpaint
from app.progress.tab import NAME, TAB, TrainingProgress
from app.teach.tab import Teach
from app.walk.tab import Walk

MAX_EVENTS = 512  # that wait for a thread

ROOM = Path(__file__).parent
ASSETS = ROOM / "page"
TEACH = "teach"
TABS = {  # by what addresses call them
    "generate": ("Generate", Generate),
    "inpaint": ("Inpaint", Inpaint),
    "compare": ("Compare", Compare),
    "walk": ("Walk", Walk),
    TAB: (NAME, TrainingProgress),
    TEACH: ("Teach", Teach),
}

ARCHITECTURES = {
    "DiT": "A diffusion transformer",
    "MDT": "A masked diffusion transformer",
    "MDTv2": "A masked diffusion transformer, second version",
}

# Fonts of the system: the page loads nothing from elsewhere.
THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
    radius_size="md",
    spacing_size="sm",
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_background_fill="transparent",
    block_background_fill_dark="transparent",
    block_border_width="0px",
    block_border_width_dark="0px",
    block_padding="0px",
    block_label_text_size="*text_sm",
    block_title_text_size="*text_sm",
    input_background_fill="*neutral_100",
    input_background_fill_dark="*neutral_800",
    button_secondary_background_fill="white",
    button_secondary_background_fill_hover="*neutral_100",
    button_secondary_background_fill_dark="*neutral_800",
    button_secondary_border_color="*neutral_200",
    button_secondary_border_color_dark="*neutral_700",
    button_border_width="1px",
    button_small_text_weight="500",
    button_cancel_background_fill="#dc2626",
    button_cancel_background_fill_hover="#b91c1c",
    button_cancel_background_fill_dark="#b91c1c",
    button_cancel_background_fill_hover_dark="#dc2626",
    button_cancel_text_color="white",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
    button_primary_text_color="white",
    slider_color="*primary_500",
)


def build(engine: Engine, runs: Path, live: bool = True, teach: bool = True) -> gr.Blocks:
    """The whole page for an engine; loads its first model.

    Args:
        live: whether Live may be on before it is turned on.
        teach: whether visitors may teach a model.
    """
    info = engine.describe(engine.default)
    # Results and uploads are deleted after a day; previews are never stored where they would pile up.
    with PlainBlocks(title="MDT Studio", delete_cache=(3600, 86400), fill_width=True, analytics_enabled=False) as demo:
        with gr.Row(elem_classes="header"):
            about = gr.HTML(header(info) + picture_sheet(engine, info), elem_id="about")
            model = gr.Dropdown(
                list(engine.models),
                value=info.name,
                label="Model",
                show_label=False,
                container=False,
                visible=len(engine.models) > 1,
                scale=0,
                min_width=220,
                elem_id="model",
            )
        good = gr.State(info.name)  # the last model that could be opened
        opened = model.change(partial(open_model, engine), model, [about, good], **CHECK)
        opened.failure(lambda name: name, good, model, **GLUE)
        gr.on([demo.load, model.focus], partial(model_choices, engine), model, model, **GLUE)
        # not a secret: only so that it can be read again; for each server's own model there is another memory
        kept = gr.BrowserState(storage_key=f"mdt-studio {info.name}", secret="mdt-studio")
        tab_in_view = gr.Textbox(next(iter(TABS)), visible=False)
        studio = Studio(engine, runs, model, opened, info, demo, kept, tab_in_view, live)
        with gr.Tabs() as studio.tabs:
            for tab, (name, content) in TABS.items():
                if tab == TEACH and not teach:
                    continue
                with gr.Tab(name, id=tab) as studio.tab:
                    content(studio)
                studio.tab.select(None, None, tab_in_view, js=links.follow(tab), **GLUE)
        studio.keep(model.change, "model", [model], "v[0]")
        loaded = demo.load(studio.bring_page, [kept, model], [studio.tabs, model], **GLUE)
        loaded.then(None, js=links.loaded(), **GLUE)
    return demo.queue(max_size=MAX_EVENTS)


def open_model(engine: Engine, name: str) -> tuple[str, str]:
    """Another model was chosen: load it. Its header, with the pictures of its classes, and its name."""
    with plain_errors():
        info = engine.describe(name)
    engine.warm_in_background(name)
    return header(info) + picture_sheet(engine, info), name


def model_choices(engine: Engine, chosen: str) -> dict:
    """The models that there are now: a run may have written a checkpoint since, or deleted the one that is chosen."""
    names = list(engine.models)
    gone = [] if chosen in names else [(f"{chosen} · gone", chosen)]  # else Gradio would refuse all that is sent
    return gr.update(choices=names + gone, visible=len(names + gone) > 1)


def header(info: ModelInfo) -> str:
    """The title and which model runs where."""
    where = {"cpu": "CPU (no GPU found)", "cuda": "GPU", "mps": "Apple GPU"}.get(info.device, info.device)
    chips = {
        info.name: "The model in use",
        info.architecture: ARCHITECTURES.get(info.architecture, "Its architecture"),
        f"{info.parameters / 1e6:.1f} M parameters": "Its size: numbers that it has learnt",
        f"{info.image_size} px": "The height and width of the pictures that it draws",
        where: "What it runs on",
    }
    if info.dtype != "float32":
        chips[info.dtype] = "The number format that it computes in"
    hint = "<em>A large model on a CPU: few steps are wise.</em>" if info.slow else ""
    spans = "".join(f'<span title="{title}">{html.escape(chip)}</span>' for chip, title in chips.items())
    return f"<h1>MDT Studio</h1>{spans}{hint}"


def launch(demo: gr.Blocks, serving: Serving | None = None, **options: Any) -> tuple[Any, str, str | None]:
    """Serve the page; by default until interrupted. Arguments and result as of `gr.Blocks.launch`."""
    options = launch_options(serving) | options
    try:
        return demo.launch(**options)
    except ValueError:  # Gradio gives its server three seconds to answer it: too few while a busy machine starts
        return demo.launch(**options)


def script(path: Path) -> str:
    """A file that holds one function, as an expression."""
    return path.read_text(encoding="utf-8").rstrip().removesuffix(";")


def launch_options(serving: Serving | None = None) -> dict[str, Any]:
    """What `demo.launch` is told besides the address."""
    return {
        "theme": THEME,
        "css": "\n".join(
            path.read_text(encoding="utf-8") for path in sorted(ROOM.glob("*/*.css"), key=lambda path: path.name)
        ),
        "js": "".join(["() => {", *(f"({script(path)})();\n" for path in sorted(ASSETS.glob("*.js"))), "}"]),
        "favicon_path": ASSETS / "favicon.png",
        "footer_links": ["api"],
        "ssr_mode": False,
        **(serving or Serving()).options(),
    }
