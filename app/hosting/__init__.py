"""The app as it is served: what a visitor may ask for, and what of a request is let through."""
