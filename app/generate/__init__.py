"""The tab Generate."""
