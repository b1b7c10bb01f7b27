"""`python -m mdt_core.bench`: how fast the model and the sampler are, against the published computation.

What is compared takes turns in one process (timing.py); the reference is in reference.py. A row is printed as it is
done, and the last line is one JSON object. Training's rows are in train/bench.py.
"""

import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping

import torch

from mdt_core.bench.rows import ROWS, Row, Setting
from mdt_core.command.parser import Parser, number

Rows = Mapping[str, Callable[[Setting], Iterator[Row]]]

COLUMNS = (  # title, width, field of the row, format
    ("seconds", 10, "seconds", ".3f"),
    ("spread", 8, "spread", ".0%"),
    ("other", 10, "other_seconds", ".3f"),
    ("ratio", 8, "ratio", ".2f"),
    ("error", 10, "error", ".0e"),
    ("largest", 9, "largest", ".0e"),
    ("MiB", 7, "peak_mib", "d"),
    ("other", 7, "other_peak_mib", "d"),
)


def main(
    arguments: list[str] | None = None,
    table: Rows = ROWS,
    program: str = "python -m mdt_core.bench",
    description: str = "Speed, against the published computation.",
) -> None:
    """The command line over a table of rows, by name."""
    parser = Parser(prog=program, description=description)
    parser.add_argument("--rows", nargs="+", choices=table, default=list(table), metavar="ROW", help=", ".join(table))
    parser.add_argument("--repeats", type=number(int, 1), default=3, help="rounds of every row (default 3)")
    devices = ["cuda"] * torch.cuda.is_available() + ["cpu"]
    parser.add_argument("--device", choices=devices, default=devices[0], help="cpu or cuda")
    parser.add_argument("--threads", type=number(int, 1), help="CPU threads (default: as torch sets them)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = describe(options.device)
    print(" | ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'':66}" + "".join(f"{title:>{width}}" for title, width, _, _ in COLUMNS))
    rows = []
    for name in options.rows:
        for row in table[name](Setting(options.device, options.repeats)):
            rows.append(row)
            print(format_row(row), flush=True)
    print(json.dumps({**machine, "rows": [row.json() for row in rows]}))


def describe(device: str) -> dict[str, str | int]:
    """The machine, in a few words."""
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def cpu_name() -> str:
    """The CPU's name, and whether it has AMX, which decides bfloat16."""
    names = []
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    amx = "with AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    return f"{names[0] if names else platform.processor() or platform.machine()}, {amx}"


def format_row(row: Row) -> str:
    """A line of the printed table; what was not measured stays empty."""
    cells = [f"{row.name:66}"]
    for _, width, field, form in COLUMNS:
        value = getattr(row, field)
        cells.append(f"{'' if value is None else format(value, form):>{width}}")
    line = "".join(cells)
    return f"{line.rstrip()}  {row.note}" if row.note else line
