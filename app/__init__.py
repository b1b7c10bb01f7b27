"""MDT Studio in the browser. Builds on mdt_core; nothing in mdt_core or train knows of it."""
