"""One script per claim about speed; each is run as `python -m benchmarks.NAME`."""
