"""`python -m train.distill`: a low-rank addition with which a model draws in four plain steps what took it guidance."""
