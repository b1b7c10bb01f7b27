"""`python -m train.inpainting`: the inpainting methods, measured."""
