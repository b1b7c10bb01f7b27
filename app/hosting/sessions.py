"""What the server remembers of a page, or of a program's call: little, and of no more of them than it was told."""

from typing import Any

from gradio import routes, state_holder
from gradio.blocks import Blocks


class Page:
    """What Gradio's session reads of the page when it begins: no component of it is one whose setup is to be copied."""

    def __init__(self, blocks: Blocks):
        self.default_config, self.blocks = blocks.default_config, {}


class Session(state_holder.SessionState):
    """Gradio's, without its copy of how every component is set up, which it writes anew at every event.

    That is half a megabyte and 40 ms for each, a program's calls among them, and there for links to a session alone,
    which are closed here (`guard.CLOSED`).
    """

    def __init__(self, blocks: Blocks):
        super().__init__(Page(blocks))

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it: a call of a program, which holds nothing, or a page that was closed."""
        return not self.state_data or self.is_closed

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        """There is none."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """There is none."""


class Sessions(state_holder.StateHolder):
    """All of them. Where they are too many, idle ones are forgotten first, and of those what was used least lately.

    Gradio alone would forget a page that is looked at for the calls of a program.
    """

    def update(self, session_id: str) -> None:
        """It was used just now."""
        with self.lock:
            held = self.session_data
            if session_id in held:
                held.move_to_end(session_id)
            if len(held) > self.capacity:
                others = [name for name in held if name != session_id]
                gone = next((name for name in others if held[name].idle), others[0])
                del held[gone]
                self.time_last_used.pop(gone, None)


# Of which Gradio makes one for every session, and one for the server
state_holder.SessionState, routes.StateHolder = Session, Sessions
