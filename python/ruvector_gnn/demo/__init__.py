"""The demo: search Python's own standard library, learn from past queries, judge on future ones."""
