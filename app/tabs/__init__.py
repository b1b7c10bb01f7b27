"""One file per tab, each with a `build(studio)` that lays it out and wires it up."""
