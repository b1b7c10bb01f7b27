"""The engine: one model at a time, runs as streams of frames; knows no browser."""
