"""What a person sees: status, the demo."""
