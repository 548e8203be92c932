"""Methods that correct the loss by the transition matrix of the noise."""
