"""Bonding: which line carries what, and putting it back in order. Leaf algorithms, no I/O."""
