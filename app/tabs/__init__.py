"""One file per tab: a class that lays it out and wires it up, handed a `Studio`."""
