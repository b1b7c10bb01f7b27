"""The command `python -m mdt_core.bench`."""

import sys

from mdt_core.bench.command import main

main(sys.argv[1:])
