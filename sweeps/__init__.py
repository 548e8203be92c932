"""Which runs a table or a figure needs, and running them."""
