"""The application: data, recipes, loop, checkpoints, reports. Runs from a checkout."""
