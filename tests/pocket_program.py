"""`yolov7-jax`, which also knows the pocket network."""

import sys

from pocket import pocket_known

from yolov7_jax.training import command as cli


def run() -> int:
    """Runs the command that the program was given; returns its exit code."""
    with pocket_known():
        return cli.run_program(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
