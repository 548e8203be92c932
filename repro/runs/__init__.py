"""What a run leaves on the disk: its folder, lock, checkpoints, manifest and provenance."""
