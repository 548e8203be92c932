"""Where runs go: SLURM clusters, through submitit."""
