"""Joins protocol and I/O: the event loop, clocks, randomness, signals, devices."""
