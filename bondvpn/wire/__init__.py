"""Byte layouts only: named offsets, a checked view, parse and emit. No state, no I/O."""
