"""The classes of a model on the page: picked from a list, shown as pictures, mixed."""
