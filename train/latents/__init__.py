"""`python -m train.latents`: images encoded once, and the latents as training reads them."""
