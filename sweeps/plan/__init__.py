"""Which runs specs need, in which order, and what they cost."""
