"""The dropdown that class pickers are made of."""

from typing import Any

import gradio as gr


class ClassDropdown(gr.Dropdown):
    """A dropdown whose values, numbers of classes, are checked by the request that they become part of.

    Gradio holds them against the choices of the model that was opened last: a class of the model before, which is still
    on its way then, would end in a traceback.
    """

    is_template = True  # the browser draws it as a dropdown

    def preprocess(self, payload: Any) -> Any:
        """The number, or the list of several, as they come. gr.Error where they are none."""
        numbers = payload if self.multiselect else [payload]
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise gr.Error("Choose a class from the list.", print_exception=False)
        return payload
