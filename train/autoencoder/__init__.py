"""`python -m train.autoencoder`: the small autoencoder, and its decoder tuned on what a diffusion model hands it."""
