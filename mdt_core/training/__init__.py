"""The training loop and its parts: configuration, draws, optimizers, EMA, checkpoints."""
