"""The tab Walk."""
