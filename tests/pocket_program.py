"""`yolov7-jax`, which also knows the pocket network."""

import sys

from pocket import pocket_known

from yolov7_jax.cli import main


def run() -> int:
    """Runs the command that the program was given; returns its exit code."""
    with pocket_known():
        return main()


if __name__ == "__main__":
    sys.exit(run())
