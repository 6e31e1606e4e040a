"""Syscalls only: TAP, UDP offload, netlink, policy routing. Imports nothing of the protocol."""
