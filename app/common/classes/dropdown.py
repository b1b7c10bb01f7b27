"""The dropdown that class pickers are made of."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

NO_CLASS = -1  # what the browser has in the place of None, which in a dropdown means that nothing is chosen


class ClassDropdown(gr.Dropdown):
    """A dropdown whose values are class labels: numbers, or None for no class; a list of them where several are picked.
    With `allow_custom_value` texts may be among them: mixes of classes as people write them (`mixing.mix_named`).

    They are checked by the request that they become part of. Gradio holds them against the choices of the model that
    was opened last: a class of the model before, which is still on its way then, would end in a traceback.
    """

    is_template = True  # the browser draws it as a dropdown

    def preprocess(self, payload: Any) -> Any:
        """The label, or the list of several. gr.Error where they are none."""
        numbers = payload if self.multiselect else [payload]
        kinds = (int, str) if self.allow_custom_value else (int,)
        if not isinstance(numbers, list) or not all(type(number) in kinds for number in numbers):
            raise gr.Error("Choose a class from the list.", print_exception=False)
        labels = [None if number == NO_CLASS else number for number in numbers]
        return labels if self.multiselect else labels[0]

    def postprocess(self, value: Any) -> Any:
        """The number that stands for a label in the browser, or the list of several."""
        numbers = [NO_CLASS if label is None else label for label in (value if self.multiselect else [value])]
        return super().postprocess(numbers if self.multiselect else numbers[0])


def class_choices(labels: Mapping[int, str]) -> list[tuple[str, int]]:
    """(text, number) pairs: a class is found by its name or its index."""
    return [
        ("anything (no class)", NO_CLASS),
        *((f"{name} · {index}", index) for index, name in labels.items()),
    ]
