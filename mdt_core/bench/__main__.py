"""The command `python -m mdt_core.bench`."""

from mdt_core.bench.command import main

main()
