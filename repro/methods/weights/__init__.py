"""Methods that weigh or select training images."""
