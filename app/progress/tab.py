"""The Training progress tab: samples of one or two runs from step to step, and their curves, live while they train."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gradio as gr

from app.common.errors import plain_errors
from app.common.images import publish, uri
from app.common.studio import CHECK, GLUE, Studio, Update
from app.engine.models import SHIPPED_RUNS
from app.engine.runs import RunSnapshot, find_runs, look_at
from app.engine.sheets import SampleSheet
from app.progress.download import Download
from app.progress.steps import CheckpointChoice, all_steps, checkpoints_of, slider_position, suggested_checkpoint
from app.progress.strip import MOST_STEPS
from app.progress.strip_panel import StripPanel
from app.progress.timeline import samples_timeline
from app.progress.view import view

NAME = "Training progress"
TAB = "training"  # in an address
NOTHING = ""  # the value of the second picker where one run is looked at
FRAME_SECONDS = 0.7  # between two frames when played
MOST_FRAMES = 60  # of an animation
SCRIPT = Path(__file__).with_name("progress.js").read_text(encoding="utf-8")
EMPTY = """<div class="stage empty"><div class="welcome"><h2>There is no training run to watch yet</h2>
<p>Train a model as docs/training.md says: what it draws and how it learns appear here while it does.</p>
<pre>accelerate launch -m train avatars --output-dir {folder}/my-first-run</pre></div></div>"""


class StepSlider(gr.Slider):
    """A slider whose range may shrink while the browser still sends an old position: that counts as the last one."""

    is_template = True  # for the browser it is a slider

    def preprocess(self, payload: float) -> float:
        return min(max(payload, self.minimum), self.maximum)


@dataclass(frozen=True)
class PageState:
    """What the page shows, to see what has changed; kept by the session."""

    version: int = 0  # of all that was read for it
    steps: tuple[int, ...] = ()  # one per position of the slider
    runs: Sequence[tuple[str, str]] = ()  # the choices of the pickers of runs
    checkpoints: tuple[str, ...] = ()  # what the picker of checkpoints holds
    strip: tuple = ()  # what a strip is offered of


class TrainingProgress:
    """The tab's components, and what happens between them. An Update leaves alone what it does not name."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.folders = (studio.runs, SHIPPED_RUNS)
        self._published: dict[SampleSheet, str] = {}
        self.empty = gr.HTML(EMPTY.format(folder=html.escape(str(studio.runs))), elem_id="training-empty")
        with gr.Column(visible=False, elem_id="training", elem_classes="result") as self.page:
            self._lay_out()
        self.shown = gr.State(PageState())
        self.player = gr.Timer(FRAME_SECONDS, active=False)
        self._wire(studio)
        studio.show_run, studio.run_shown = self.show_run, [studio.tabs, self.first, self.second]

    def _lay_out(self) -> None:
        with gr.Row(elem_classes="playback"):
            picker = {"choices": [], "scale": 0, "min_width": 220}
            self.first = gr.Dropdown(
                label="Training run",
                info="The training whose pictures and curves are shown.",
                elem_id="training-first",
                **picker,
            )
            self.second = gr.Dropdown(
                label="Compare with",
                info="A second training, shown at the same steps.",
                elem_id="training-second",
                **picker,
            )
            self.play = gr.Button("▶ Play", size="sm", scale=0, min_width=96, elem_id="training-play")
            self.position = StepSlider(
                0,
                1,
                0,
                step=1,
                label="Training step",
                info="How far training had come: drag, or press the arrow keys.",
                buttons=[],
                min_width=300,
                elem_id="training-slider",
            )
        self.view = gr.HTML(js_on_load=SCRIPT, elem_id="training-view")
        with gr.Row(elem_classes="checkpoints", equal_height=True):
            with gr.Row(elem_classes="checkpoints", equal_height=True) as self.row:
                self.checkpoint = gr.Dropdown(
                    [],
                    label="Checkpoint",
                    info="A model saved on the way: draw or inpaint with it.",
                    scale=0,
                    min_width=260,
                    elem_id="training-checkpoint",
                )
                buttons = {"size": "sm", "scale": 0, "min_width": 140}
                self.generate = gr.Button("Open in Generate", elem_id="training-generate", **buttons)
                self.inpaint = gr.Button("Open in Inpaint", elem_id="training-inpaint", **buttons)
                self.note = gr.HTML(elem_id="training-note")
            self.download = Download("training", "Save all classes as", "Download all classes")
        self.strip = StripPanel(self.studio)

    def _wire(self, studio: Studio) -> None:
        runs, opening = [self.first, self.second], [self.generate, self.inpaint, self.note]
        chosen = [*runs, self.position, self.checkpoint, self.shown]
        page = [self.page, self.empty, self.view, self.play, self.row, *chosen, *opening, *self.strip.offered]
        studio.watch(self.look, chosen, page, [self.first.input, self.second.input])

        self.position.change(None, self.position, js="(k) => { window.trainingProgress.show(k); return []; }", **GLUE)
        self.position.change(self.suggest, chosen, [self.checkpoint, *opening], trigger_mode="always_last", **GLUE)
        playing = [self.position, self.player, self.play]
        self.play.click(None, self.position, playing, js="(k) => window.trainingProgress.toggle(k)", **GLUE)
        self.player.tick(None, self.position, playing, js="(k) => window.trainingProgress.next(k)", **GLUE)

        self.checkpoint.input(self.explain, [*runs, self.checkpoint], opening, **GLUE)
        goal = [studio.model, studio.tabs]
        self.generate.click(partial(self.open_in, "generate"), [*runs, self.checkpoint], goal, **CHECK)
        self.inpaint.click(partial(self.open_in, "inpaint"), [*runs, self.checkpoint], goal, **CHECK)
        self.download.wire(self.export, runs)
        self.strip.wire(runs, self._runs, self.view, self._uri)

    def show_run(self, name: str) -> Update:
        """Another tab asks for a run."""
        choices = [(found, found) for found in find_runs(self.folders)]
        return {
            self.studio.tabs: gr.Tabs(selected=TAB),
            self.first: gr.update(choices=choices, value=name),
            self.second: gr.update(choices=[("none", NOTHING), *choices], value=NOTHING),
        }

    # --- the runs --------------------------------------------------------------------------------------------

    def look(
        self, first: str | None, second: str | None, position: int, checkpoint: str | None, shown: PageState
    ) -> Update:
        """Show what there is of the chosen runs by now; where nothing has changed, nothing is sent."""
        found = find_runs(self.folders)
        names = [name for name in dict.fromkeys((first, second)) if name]
        if not found and not names:
            return {self.page: gr.update(visible=False), self.empty: gr.update(visible=True)}
        names = names or opening_runs(found, SHIPPED_RUNS)
        runs = [look_at(name, found) for name in names]
        version = hash((tuple(found), *((run.name, run.problem, run.version, run.live) for run in runs)))
        if version == shown.version and first != second:
            return gr.skip()

        steps, step_before = tuple(all_steps(runs)), shown.steps[position : position + 1]
        position = slider_position(shown.steps, position, steps)
        choices = [(name, name) for name in found] + [(f"{name} (gone)", name) for name in names if name not in found]
        checkpoints = tuple(choice.label for choice in checkpoints_of(runs).values())
        now = PageState(version, steps, choices, checkpoints, self.strip.offer(runs))
        update = {
            self.page: gr.update(visible=True),
            self.empty: gr.update(visible=False),
            self.view: view(runs, position, self._uri),
            self.position: gr.update(maximum=max(len(steps) - 1, 1), value=position, interactive=len(steps) > 1),
            self.play: gr.update(interactive=len(steps) > 1),
            self.shown: now,
            self.row: gr.update(visible=bool(checkpoints)),
        }
        # A picker is left alone where it need not change: it may be open, or hold a newer choice than was asked for.
        pickers = (self.first, first, choices), (self.second, second, [("none", NOTHING), *choices])
        for (picker, chosen, options), name in zip(pickers, [*names, NOTHING], strict=False):
            change = {"choices": options} if choices != shown.runs else {}
            change |= {"value": name} if name != chosen else {}
            if change:
                update[picker] = gr.update(**change)
        if now.strip != shown.strip:
            update |= self.strip.show_offer(now.strip, shown.strip)
        if checkpoints != shown.checkpoints or steps[position : position + 1] != step_before:
            update |= self._offer_checkpoints(runs, steps[position] if steps else 0, checkpoint)
        return update

    def _uri(self, sheet: SampleSheet) -> str:
        """Where the browser finds a picture, "" where it was deleted. It is published once, and again only where the
        server has deleted its copy."""
        path = self._published.get(sheet)
        if path is None or not Path(path).exists():
            try:
                data = sheet.path.read_bytes()
            except OSError:
                return ""
            self._published[sheet] = path = publish(data, sheet.path.stem, self.view)
        return uri(path)

    def _runs(self, *names: str | None) -> list[RunSnapshot]:
        found = find_runs(self.folders)
        return [look_at(name, found) for name in dict.fromkeys(names) if name]

    def export(self, kind: str, first: str | None, second: str | None) -> str:
        """The samples of the runs over their steps, as a file."""
        runs = self._runs(first, second)
        with plain_errors():
            timeline = samples_timeline(runs, MOST_STEPS if kind == "png" else MOST_FRAMES)
            return self.download.publish(timeline, kind, f"{'-'.join(run.name for run in runs)}-samples")

    # --- checkpoints -----------------------------------------------------------------------------------------

    def suggest(
        self, first: str | None, second: str | None, position: int, checkpoint: str | None, shown: PageState
    ) -> Update:
        """The slider moved: offer the checkpoint of its step."""
        if not 0 <= position < len(shown.steps):
            return gr.skip()
        return self._offer_checkpoints(self._runs(first, second), shown.steps[position], checkpoint)

    def _offer_checkpoints(self, runs: list[RunSnapshot], step: int, before: str | None) -> Update:
        """The checkpoints to choose from. The one chosen `before` stays among them, also when it is gone: the browser
        may be sending it just now, and Gradio refuses what is no choice."""
        listed, chosen = checkpoints_of(runs), suggested_checkpoint(runs, step, before)
        choices = [(checkpoint.label, name) for name, checkpoint in listed.items()]
        if before is not None and before not in listed:
            choices.append((f"{before} · gone", before))
        return {self.checkpoint: gr.update(choices=choices, value=chosen)} | self._offer_to_open(listed.get(chosen))

    def explain(self, first: str | None, second: str | None, chosen: str | None) -> Update:
        """A checkpoint was chosen: say whether it can be opened."""
        return self._offer_to_open(checkpoints_of(self._runs(first, second)).get(chosen))

    def _offer_to_open(self, checkpoint: CheckpointChoice | None) -> Update:
        problem = checkpoint.problem if checkpoint else "It is not there any more"
        can = gr.update(interactive=not problem)
        note = f'<p class="problem">{html.escape(problem)}.</p>' if problem else ""
        return {self.generate: can, self.inpaint: can, self.note: note}

    def open_in(self, tab: str, first: str | None, second: str | None, chosen: str | None) -> Update:
        """Go to a tab with the chosen checkpoint."""
        checkpoint = checkpoints_of(self._runs(first, second)).get(chosen)
        if checkpoint is None:
            raise gr.Error("This checkpoint is not there any more.", print_exception=False)
        return self.studio.open_in(tab, checkpoint.run, checkpoint.step)


def opening_runs(runs: Mapping[str, Path], shipped: Path) -> list[str]:
    """What the page opens with: a run in training, else two that are shipped, of those with checkpoints to draw with
    if there are two, else the newest."""
    seen = [look_at(name, runs) for name in runs]
    newest = sorted(seen, key=lambda run: run.last_written, reverse=True)
    live = [run.name for run in newest if run.live]
    pairs = sorted((run for run in seen if runs[run.name].parent == shipped), key=lambda run: not run.checkpoints)
    return live[:1] or [run.name for run in pairs[:2]] or [newest[0].name]
