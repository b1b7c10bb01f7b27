"""`python -m mdt_core.bench`: how fast model and sampler are, against a plain reference of the published code."""
