"""A tab whose settings the browser keeps, links name, and one button sets back to the model's own."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.common.controls import bring_steps, setting_controls
from app.common.errors import plain_errors, warn
from app.common.history import History
from app.common.links import COPIED, COPY, from_query, to_query
from app.common.run_tab import RunTab
from app.common.studio import CHECK, GLUE, Update
from app.engine.model_info import ModelInfo
from app.engine.request import Label, Request


class SettingsTab(RunTab):
    """A subclass lays out `controls`, calls `lay_out_settings` and, when all is laid out, `wire_settings`."""

    picker_model: gr.State  # whose classes the controls offer
    folds: Sequence[gr.Accordion] = ()
    history: History  # of a tab that has one
    class_keys: Sequence[str] = ("class_labels", "mixed_with")  # of `by_name`: pickers of classes

    def fold(self, label: str, name: str) -> gr.Accordion:
        """A part of the page that folds away, at first folded; the browser keeps whether it is open."""
        fold = gr.Accordion(label, open=False, elem_id=f"{self.tab}-{name}", elem_classes="fold")
        self.folds = [*self.folds, fold]
        return fold

    def lay_out_sampling(self, first: Request, *more: str) -> dict[str, Component]:
        """Controls of sampler, steps and guidance, those that are seldom used and `more` folded away."""
        settings = setting_controls(first, self.tab, "num_inference_steps", "guidance_scale")
        with self.fold("Advanced", "advanced"):
            settings |= setting_controls(first, self.tab, "sampler", "first_timestep")
            settings |= setting_controls(first, self.tab, "guidance_power", "guidance_kind")
            settings |= setting_controls(first, self.tab, "guidance_high", "guidance_low")
            if more:
                settings |= setting_controls(first, self.tab, *more)
        bring_steps(settings)
        return {key: settings[key] for key in first.settings if key in settings}  # the sampler before the steps

    def lay_out_settings(self) -> None:
        """What is done with all settings at once."""
        small = {"size": "sm", "min_width": 120}
        with gr.Row():
            self.copy = gr.Button("Copy link", elem_id=f"{self.tab}-link", **small)
            self.reset = gr.Button("Reset to defaults", elem_id=f"{self.tab}-reset", **small)
        self.query = gr.Textbox(visible=False)  # of the link

    def wire_settings(self, page: Sequence[Component] = ()) -> Dependency:
        """Let the browser keep the settings, for when the page is loaded again: the event of that is returned.

        `page`: what `restore` changes besides the controls.
        """
        studio, components = self.studio, [*self.by_name.values()]
        fields = ", ".join(f"{json.dumps(name)}: v[{i}]" for i, name in enumerate(self.by_name))
        changes = partial(gr.on, [component.change for component in components])
        studio.keep(changes, self.tab, components, f"{{{fields}}}")
        copied = self.copy.click(self.link, [self.picker_model, studio.model, *components], self.query, **GLUE)
        copied.then(None, self.query, self.copy, js=COPY, **GLUE).then(None, None, self.copy, js=COPIED, **GLUE)
        for fold in self.folds:
            studio.keep(fold.expand, fold.elem_id, [], "true")
            studio.keep(fold.collapse, fold.elem_id, [], "false")
        shown = self.controls.outputs if self.controls else []
        page = [*dict.fromkeys([self.picker_model, *components, *shown, *page])]
        self.reset.click(self.set_defaults, studio.model, page, **GLUE)
        return studio.page.load(self.bring_settings, [studio.kept, studio.model], [*page, *self.folds], **CHECK)

    def wire_history(self, *runs: Dependency) -> None:
        """Let the history grow by these runs, and its pictures bring back how they were made, as the recipe box."""
        self.history.wire(self.studio, runs, self.job, self.files_of)
        self.history.strip.select(self.load_made, [self.history.made, *self.recipe_inputs], self.recipe_page, **CHECK)

    def files_of(self, job: Any) -> Sequence[str]:
        """The pictures that a run has made ..."""
        raise NotImplementedError

    def load_made(self, made: Any, event: gr.SelectData, model: str, *more: Any) -> Update:
        """A picture of the history was clicked."""
        rows = self.history.usable(made[event.index : event.index + 1])
        with plain_errors():
            if not rows:
                raise ValueError("This picture is no longer here: pictures are kept for a day.")
            return self.load(rows[0]["file"], model, *more)

    def link(self, picker_model: ModelInfo, model: str, *values: Any) -> str:
        """The query of a link to this tab and its settings, classes by name."""
        settings = dict(zip(self.by_name, values, strict=True))
        for key in set(self.class_keys) & set(settings):
            labels = settings[key] if isinstance(settings[key], list) else [settings[key]]
            names = picker_model.labels
            settings[key] = [label if isinstance(label, str) else names.get(label) for label in labels]
        return to_query(self.tab, {"model": model} | settings)

    def bring_settings(self, kept: Any, model: str, request: gr.Request) -> Any:
        """The page was loaded: settings as the link says that it was opened with, else as the browser kept them."""
        tab, linked = from_query(request.query_params.multi_items())
        kept = kept if isinstance(kept, dict) else {}
        before = kept.get("model", self.studio.info.name)
        info = self.studio.kept_model(linked.get("model", before), model)
        saved = kept.get(self.tab)
        saved = saved if isinstance(saved, dict) else {}
        if before != info.name:  # whose classes had other numbers
            saved = {name: value for name, value in saved.items() if name not in self.class_keys}
        named = {name: value for name, value in linked.items() if name in self.by_name} if tab == self.tab else {}
        folds: Update = {fold: gr.update(open=True) for fold in self.folds if kept.get(fold.elem_id) is True}
        if not named and not saved and info == self.studio.info:
            return folds or gr.skip()
        update, notes = self.restore(named or saved, info)
        if named:
            warn(notes, "Link")
        return update | folds

    def set_defaults(self, model: str) -> Update:
        """All as on a fresh page, with the model's own settings."""
        return self.restore({}, self.engine.describe(model))[0]

    @property
    def by_name(self) -> dict[str, Component]:
        """The controls whose values the browser keeps and links name."""
        return self.controls.by_name

    def restore(self, saved: Mapping[str, Any], info: ModelInfo) -> tuple[Update, list[str]]:
        """Set the controls to what a browser kept or a link names, as far as it can be used; and notes on the rest."""
        request, labels, notes = self.controls.read(saved, info)
        update = self.show_request(request, info, labels)
        if self.controls.keep_seed:
            update[self.controls.keep_seed] = saved.get("keep_seed") is True
        return update, notes

    def show_request(self, request: Request, info: ModelInfo, class_labels: Sequence[Label] = ()) -> Update:
        """Set the controls to a request. `class_labels`: other classes than its own."""
        update = {self.picker_model: info} | self.controls.updates(request, info)
        return update | self.controls.class_updates(class_labels, info) if class_labels else update
