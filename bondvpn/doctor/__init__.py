"""`bondvpn doctor`: what keeps a configuration from working on this machine, and the command that mends it.

machine   device node, capabilities, kernel, clock, forwarding, ports
files     modes of the keys, programs of the hooks
plan      uplinks, rp_filter, routes and rules as they are to be, what a killed process left
lines     the server by each line: round trip, path MTU, speed
"""
