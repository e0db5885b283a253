"""The embedded data set, drawn by code."""
