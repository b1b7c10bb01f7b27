"""What visitors may ask for, in one table: much on one's own machine, less where others come in."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Those of one visitor where not said otherwise. None: no limit."""

    requests: float | None  # a minute, of those that change or compute something (POST)
    uploads: float | None  # MB a minute
    files: int  # of one upload
    file_size: int  # MB
    pixels: int  # of a picture that is opened
    run: int  # steps of a run, each picture's counted
    runs: int  # that wait or go on
    temporary_files: int  # MB, of all visitors
    fetched: bool  # whether a file may be given as an address, which the server then fetches


ALONE = Limits(
    requests=None,
    uploads=None,
    files=2000,  # as many as a model is taught at once
    file_size=64,
    pixels=8192 * 8192,
    run=16_000,
    runs=32,
    temporary_files=16_384,
    fetched=True,
)
OTHERS = Limits(
    requests=600,
    uploads=256,
    files=4,
    file_size=64,
    pixels=4096 * 4096,
    run=8_000,
    runs=8,
    temporary_files=4096,
    fetched=False,
)
