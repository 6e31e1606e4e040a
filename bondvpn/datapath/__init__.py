"""The hot path: a frame's way out (`outbound`) and its way in (`inbound`)."""
