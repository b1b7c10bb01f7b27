"""ZeroGPU on Hugging Face Spaces: a GPU is lent for the length of one decorated call, which runs in a forked worker.

Import this module before anything that imports torch: the `spaces` package has to be there before CUDA is touched.
Other Spaces have the package as well; what tells ZeroGPU is a variable that the package reads, too.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

try:
    import spaces
except ImportError:
    spaces = None

ON_ZERO_GPU = spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


@dataclass
class Failure:
    """What went wrong in the worker: of an error, the package lets only the name of its class through."""

    text: str


def gpu(duration: Callable[..., float]) -> Callable[[Callable], Callable]:
    """Decorate a generator function that needs the GPU for about `duration(*its arguments)` seconds.

    Arguments and everything yielded cross a process border: plain values and PIL images only. A ValueError or OSError
    arrives as a ValueError of the same words.
    """
    if not ON_ZERO_GPU:
        return lambda function: function

    def decorate(task: Callable[..., Iterator]) -> Callable[..., Iterator]:
        def work(*arguments):
            try:
                yield from task(*arguments)
            except (ValueError, OSError) as error:
                yield Failure(str(error))

        lent = spaces.GPU(duration=duration)(work)

        def run(*arguments):
            with closing(lent(*arguments)) as results:
                for result in results:
                    if isinstance(result, Failure):
                        raise ValueError(result.text)
                    yield result

        return run

    return decorate
