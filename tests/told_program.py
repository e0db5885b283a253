"""`yolov7-jax`, but it keeps what it tells of every step, and interrupts itself after one.

    told_program.py STEPS PATIENCE AFTER SIGNAL ARGUMENTS...

The numbers of every step go to the file STEPS. Other processes have PATIENCE seconds to come.
After so many steps the process sends itself the signal, of which 0 is none.
"""

import json
import os
import pathlib
import sys

import pocket_program

from yolov7_jax.training import distributed
from yolov7_jax.training.progress import Progress

steps = pathlib.Path(sys.argv[1])
patience, after, number = map(int, sys.argv[2:5])
del sys.argv[1:5]
distributed.ARRIVAL_SECONDS, distributed.PARTING_SECONDS = patience, 6
update, done = Progress.update, []


def tell(self, images, epoch, metrics):
    update(self, images, epoch, metrics)
    done.append([float(value) for value in metrics])
    steps.write_text(json.dumps(done))
    if len(done) == after:
        os.kill(os.getpid(), number)


Progress.update = tell
sys.exit(pocket_program.run())
