"""Detections measured against ground truth."""
