"""The control plane, sans-IO: handshakes, links, lanes and their timers."""
