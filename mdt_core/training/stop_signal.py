"""How a run ends early: on SIGTERM or Ctrl+C all processes stop after the same step, and the last one is saved."""

import signal
from time import perf_counter

import torch
from accelerate import Accelerator

AGREE_EVERY = 10  # steps
SLOW_STEP = 1.0  # seconds of a step, from which on the processes agree after each


class StopSignal:
    """A context that turns SIGTERM and Ctrl+C into a question: the loop asks `requested` after every step.

    Several processes must agree, and to agree they wait for each other. So they do it every `AGREE_EVERY` steps only;
    after each step where steps are slow, since a launcher soon kills a process that does not stop.
    """

    def __enter__(self) -> "StopSignal":
        self.received = False
        self.last_asked, self.steps, self.ask_every = perf_counter(), 0, 1
        self.handlers = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _receive(self, number, frame) -> None:
        self.received = True

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; every process calls this after each step."""
        if accelerator.num_processes == 1:
            return self.received
        self.steps += 1
        if self.steps < self.ask_every:
            return False
        before, self.last_asked = self.last_asked, perf_counter()
        step_seconds = (self.last_asked - before) / self.steps
        local = torch.tensor([self.received, step_seconds], device=accelerator.device)
        received, seconds = accelerator.reduce(local, "sum").tolist()
        # Decided by sums, which are the same in every process, so that all of them ask again after the same step.
        self.ask_every = 1 if seconds > SLOW_STEP * accelerator.num_processes else AGREE_EVERY
        self.steps = 0
        return received > 0
