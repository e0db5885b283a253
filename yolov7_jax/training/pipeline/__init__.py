"""Data sets, augmentation and the input pipeline."""
