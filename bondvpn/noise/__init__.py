"""Noise handshake, lane keys, replay windows. Sans-IO; randomness and time are arguments."""
