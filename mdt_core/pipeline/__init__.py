"""MDTPipeline: class labels and seeds in, pictures out, every step on the way."""
