"""Which labels a run doubts: lists, and one HTML page to review them."""
