"""Images and labels: sources, splits, label noise, and batches that live on the device."""
