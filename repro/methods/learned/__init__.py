"""Methods that learn labels, or parameters of the data."""
