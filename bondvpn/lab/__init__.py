"""Bonded networks in namespaces on one machine: link emulator and topologies for demo, tests and benches."""
