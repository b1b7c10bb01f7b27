"""`python -m train.evaluate`: seeds -> images -> figures."""
