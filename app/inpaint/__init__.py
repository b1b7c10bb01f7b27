"""The tab Inpaint."""
