"""Weights from elsewhere: published checkpoints, the hub, and a larger model grown from a smaller one."""
