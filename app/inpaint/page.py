"""The Inpaint tab's page: its components, and which of those that share one place is shown."""

from pathlib import Path

import gradio as gr
from gradio.components import Component

from app.common.classes.dropdown import ClassDropdown, class_choices
from app.common.classes.mixing import mix_controls
from app.common.classes.pictures import ClassPictures
from app.common.controls import RequestControls, control, keep_seed_switch, seed_picker, setting_controls
from app.common.history import History, picture_strip
from app.common.live import LiveTab
from app.common.presets import TimedPresets
from app.common.stage import status_line
from app.common.studio import Studio, Update
from app.engine.model_info import ModelInfo
from app.inpaint.job import InpaintJob, Results
from app.inpaint.painter import BeforeAfter, Painter
from app.inpaint.request import INPAINTING, NUM_VARIANTS, InpaintRequest, presets_for
from mdt_core.inpainting import METHODS

PAINTING, RESULT = "paint", "result"
VIEWS = [("Paint", PAINTING), ("Result", RESULT)]
EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"


class Page(LiveTab):
    """Lays the tab out, and adds "Send to Inpaint" to the Generate tab."""

    verb, kind = "Inpaint", "inpaint"
    ready = status_line(0, "Paint over what is to be repainted and press Inpaint<kbd> (Ctrl + Enter)</kbd>.")

    def __init__(self, studio: Studio):
        super().__init__(studio)
        self.examples = find_examples()
        self.lay_out_columns()
        self.status.value = status_line(0, "Open a picture, paste one, or take an example.")
        self.source, self.results = gr.State(), gr.State()
        with studio.actions:
            self.send = gr.Button("Send to Inpaint", size="sm", scale=0, min_width=160, elem_id="generate-send")

    def lay_out_controls(self) -> None:
        info = self.studio.info
        self.first = InpaintRequest.first(info)
        with gr.Row():
            kinds = {"file_types": ["image"], "size": "sm", "min_width": 120}
            self.open_button = gr.UploadButton("Open picture", elem_id="inpaint-open", **kinds)
            self.open_mask_button = gr.UploadButton("Load mask", elem_id="inpaint-mask", **kinds)
        pictures = [str(picture) for picture, _ in self.examples]
        self.example = picture_strip("inpaint-examples", pictures, label="Examples", visible=bool(pictures), columns=4)
        classes = ClassDropdown(
            class_choices(info.labels),
            value=next(iter(info.labels)),
            label="What to paint (type to search)",
            info="The kind of thing that the masked part becomes.",
            elem_id="inpaint-class",
        )
        self.pictures = ClassPictures(self.studio, self.fold("What each looks like", "kinds"), self.tab)
        mix = mix_controls(info, "inpaint")
        self.presets = TimedPresets(self.studio, self.first, presets_for)
        with gr.Row():
            settings = setting_controls(self.first, "inpaint", "strength")
            count = control(NUM_VARIANTS, 1, "inpaint")
        with self.fold("Advanced", "advanced"):
            keep_seed = keep_seed_switch("inpaint")
            seed, self.thrown = seed_picker("inpaint", keep_seed)
            settings |= setting_controls(self.first, "inpaint", "area")
            settings |= setting_controls(self.first, "inpaint", "grow", "feather")
            settings |= setting_controls(self.first, "inpaint", "masked_content")
            settings |= setting_controls(self.first, "inpaint", "method", "sampler")
            settings["method"].choices = method_choices(info)
            settings |= setting_controls(self.first, "inpaint", "num_inference_steps", "first_timestep")
            settings |= setting_controls(self.first, "inpaint", "guidance_scale", "guidance_power")
            settings |= setting_controls(self.first, "inpaint", "guidance_kind")
            settings |= setting_controls(self.first, "inpaint", "guidance_high", "guidance_low")
        settings = {key: settings[key] for key in INPAINTING if key in settings}
        self.controls = RequestControls(InpaintRequest, classes, count, seed, settings, keep_seed, mix)
        self.lay_out_run()
        self.lay_out_recipe()
        self.lay_out_settings()

    def lay_out_result(self) -> None:
        self.lay_out_status()
        self.painter = Painter(elem_id="inpaint-painter")
        self.stage = gr.HTML(visible=False, elem_id="inpaint-stage")
        self.comparison = BeforeAfter(visible="hidden", elem_id="inpaint-comparison")
        self.variants = picture_strip(
            "inpaint-variants", format="png", label="Variants", visible=False, columns=NUM_VARIANTS.high
        )
        self.closer = gr.Button(
            "A small part of a large picture: repaint around the mask only",
            visible=False,
            size="sm",
            elem_id="inpaint-closer",
        )
        with gr.Row(elem_classes="scrub", equal_height=True):
            self.view = gr.Radio(
                VIEWS,
                value=PAINTING,
                label="View",
                show_label=False,
                container=False,
                min_width=170,
                elem_id="inpaint-view",
            )
            small = {"size": "sm", "scale": 0, "visible": False}
            self.use = gr.Button("Paint on this result", min_width=160, elem_id="inpaint-use", **small)
            self.keep = gr.Checkbox(
                label="with the same mask",
                container=False,
                scale=0,
                min_width=170,
                visible=False,
                elem_id="inpaint-keep",
            )
            self.save = gr.DownloadButton("Save PNG", min_width=160, elem_id="inpaint-save", **small)
        self.history = History(self.fold("What you made here", "made"), self.tab)

    @property
    def switched(self) -> list[Component]:
        """What `switch_to` changes."""
        return [*self.switch_to(PAINTING)]

    def switch_to(self, view: str, job: InpaintJob | None = None, results: Results | None = None) -> Update:
        """Show the component of a view in the place that they share, and the buttons that belong to it."""
        running = bool(job and job.running)
        result = view == RESULT and bool(results) and not running
        return {
            self.view: view,
            self.painter: gr.update(visible=True if view == PAINTING else "hidden"),
            self.stage: gr.update(visible=view == RESULT and not result),
            self.comparison: gr.update(visible=True if result else "hidden"),
            self.variants: gr.update(visible=result and len(results.files) > 1),
            self.use: gr.update(visible=result),
            self.keep: gr.update(visible=result),
            self.save: gr.update(visible=result),
        }


def method_choices(info: ModelInfo) -> list[tuple[str, str]]:
    """(label, method) pairs of what a model can do."""
    options = InpaintRequest.settings["method"].options
    return [(options[name], name) for name, row in METHODS.items() if info.masked_pass or not row.masked_pass]


def find_examples(folder: Path = EXAMPLES) -> list[tuple[Path, Path]]:
    """(picture, mask) files by name: NAME.png next to NAME-mask.png."""
    pairs = [(path, path.with_name(f"{path.stem}-mask.png")) for path in sorted(folder.glob("*.png"))]
    return [(picture, mask) for picture, mask in pairs if mask.is_file()]
