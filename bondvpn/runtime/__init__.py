"""Joins protocol and I/O: the event loop, clocks, randomness, signals, devices."""

from bondvpn.runtime.client import run_client
from bondvpn.runtime.server import run_server

__all__ = ["run_client", "run_server"]
