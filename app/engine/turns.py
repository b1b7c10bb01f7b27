"""Who goes next where few can at once: first come, first served, but of several visitors each has a turn.

with turns.join(visitor) as turn:  # leaving it gives the turn back, or the place up
    while not turn.wait(LOOK_SECONDS):
        ...  # turn.before others come first
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator

PER_VISITOR = 8  # runs that one visitor may have waiting and going on
IN_ALL = 128  # that all may have
LOOK_SECONDS = 1.0  # between two looks at whether somebody still waits


class Turns:
    """A queue for runs. A visitor with many waits for the others after each of them.

    Args:
        at_once: how many go on together.
        per_visitor: how many of one visitor wait or go on.
        in_all: how many of all visitors do.
        what: they are, in sentences.
    """

    def __init__(self, at_once: int = 1, per_visitor: int = PER_VISITOR, in_all: int = IN_ALL, what: str = "runs"):
        self.at_once, self.per_visitor, self.in_all, self.what = at_once, per_visitor, in_all, what
        self._lock = threading.RLock()  # reentrant: a run that was dropped is closed wherever Python finds out
        self._waiting: OrderedDict[Hashable, deque[Turn]] = OrderedDict()  # the visitor who is next comes first
        self._going: set[Turn] = set()

    def join(self, visitor: Hashable = None) -> "Turn":
        """A place at the end. `visitor`: who asks; None is somebody else every time.

        ValueError where this visitor, or all together, have as many as they may.
        """
        with self._lock:
            turn = Turn(self, object() if visitor is None else visitor)
            if sum(other.visitor == visitor for other in self._all()) >= self.per_visitor:
                raise ValueError(
                    f"{self.per_visitor} {self.what} of yours are waiting or going on, more are not taken: "
                    "try again when one is over."
                )
            if self.busy >= self.in_all:
                raise ValueError(f"{self.in_all} {self.what} are waiting already: try again in some minutes.")
            self._waiting.setdefault(turn.visitor, deque()).append(turn)
            self._call_next()
        return turn

    @property
    def busy(self) -> int:
        """How many wait or go on."""
        return len(list(self._all()))

    def before(self, turn: "Turn") -> int:
        """How many are over before one that waits has its turn, those that go on among them."""
        with self._lock:
            if turn not in self._waiting.get(turn.visitor, ()):
                return 0
            before = rounds = self._waiting[turn.visitor].index(turn)  # in each round every visitor has one turn
            rounds += 1  # of those who come first in a round
            for visitor, turns in self._waiting.items():
                if visitor == turn.visitor:
                    rounds -= 1
                else:
                    before += min(len(turns), rounds)
            return before + len(self._going)

    def leave(self, turn: "Turn") -> None:
        """Give a turn back or a place up; once more, and nothing happens."""
        with self._lock:
            self._going.discard(turn)
            turns = self._waiting.get(turn.visitor, deque())
            if turn in turns:
                turns.remove(turn)
                if not turns:
                    del self._waiting[turn.visitor]
            self._call_next()

    def _all(self) -> "Iterator[Turn]":
        yield from self._going
        for turns in self._waiting.values():
            yield from turns

    def _call_next(self) -> None:
        """The first of the visitor who is next; then that visitor comes last."""
        while len(self._going) < self.at_once and self._waiting:
            visitor, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[visitor] = turns
            self._going.add(turn)
            turn.come.set()


class Turn:
    """A place in the queue, and then the turn, until it is closed."""

    def __init__(self, turns: Turns, visitor: Hashable):
        self.visitor = visitor
        self.come = threading.Event()
        self._turns = turns

    @property
    def before(self) -> int:
        """How many come first."""
        return self._turns.before(self)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has come within so many seconds; None: however long it takes."""
        return self.come.wait(seconds)

    def close(self) -> None:
        """Give it back, or up."""
        self._turns.leave(self)

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
