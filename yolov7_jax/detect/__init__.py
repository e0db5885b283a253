"""Images to detections: sources, the detector, and what is written and drawn."""
