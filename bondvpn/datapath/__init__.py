"""The hot path: a frame's way out (`outbound`) and its way in (`inbound`)."""

LONE_S = 0.001
"""What comes after such a pause goes on at once, before more is looked for and before it is accounted for: 40
of 280 µs less for a ping there and back."""
