"""`python -m train`, which also knows the pocket network."""

import sys

from pocket import pocket_known

from train import __main__ as cli


def run() -> int:
    """Runs the command that the program was given; returns its exit code."""
    cli.show_warnings()
    with pocket_known():
        return cli.run_program()


if __name__ == "__main__":
    sys.exit(run())
