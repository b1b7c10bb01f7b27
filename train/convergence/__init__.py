"""`python -m train.convergence`: how fast runs learn, measured and drawn."""
