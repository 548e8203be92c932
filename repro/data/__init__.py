"""Images and labels: sources, splits, label noise, and batches that live on the device."""

from repro.data.published_files import download

__all__ = ["download"]
