"""The Teach tab: pictures of one's own become a class."""
