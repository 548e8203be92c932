"""Figures: curves over epochs and panels of images."""
