"""ZeroGPU on Hugging Face Spaces: a GPU is lent for the length of one decorated call, which runs in a forked worker.

Import this module before anything that imports torch: the `spaces` package has to be there before CUDA is touched.
Everywhere else the package is missing, or its decorator does nothing.
"""

from collections.abc import Callable

try:
    import spaces
except ImportError:
    spaces = None

ON_ZERO_GPU = spaces is not None


def gpu(duration: Callable[..., float]) -> Callable[[Callable], Callable]:
    """Decorate a function that needs the GPU for about `duration(*its arguments)` seconds.

    Arguments, results and everything yielded cross a process border: plain values and PIL images only.
    """
    if spaces is None:
        return lambda function: function
    return spaces.GPU(duration=duration)
