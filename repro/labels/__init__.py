"""Label trajectories: recorded while a run trains, read by everyone else."""
