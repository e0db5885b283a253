"""`yolov7-jax check`: everything that is wrong with a data set."""

import argparse
from collections.abc import Sequence

from yolov7_jax.cli.parser import Parser
from yolov7_jax.cli.run_settings import DATA_HELP, check_data
from yolov7_jax.errors import UserError
from yolov7_jax.files import expanded

EXAMPLES = ("check --data blood/data.yaml", "check --data coco/instances_val.json --strict")


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    parser = Parser(
        "check",
        "Looks at every image and label of a data set and reports what is there and what is "
        "wrong. Exit code: 0 if the data set can be read, whatever is wrong in it; 1 if --strict "
        "was given and anything is wrong; 2 if no split can be read at all, or a flag is wrong.",
        EXAMPLES,
    )
    parser.add_argument("--data", required=True, metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="which part to check; default: all that there are, and train and val, which training "
        "needs",
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 if anything is wrong")
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="a .json file to write the whole report to, with every fault",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=5,
        metavar="N",
        help="how many faults of a kind to show on screen; default: 5",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode images; default: one per core"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Checks the data set; returns the exit code."""
    faults = [
        f"--{name} (={value}) must be at least {bound}"
        for name, bound in {"workers": 0, "show": 0}.items()
        if (value := getattr(options, name)) is not None and value < bound
    ]
    if faults:
        raise UserError("; ".join(faults))
    check_data(options.data)
    from yolov7_jax.data.check import check

    report = None if options.report is None else expanded(options.report)
    return check(
        options.data,
        split=options.split,
        strict=options.strict,
        report=report,
        show=options.show,
        workers=options.workers,
    )
