"""The tab Training progress."""
