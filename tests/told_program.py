"""`yolov7-jax`, but it keeps what it tells of every step, and interrupts itself after one.

    told_program.py STEPS PATIENCE AFTER SIGNAL STALE ARGUMENTS...

The numbers of every step go to the file STEPS. Other processes have PATIENCE seconds to come.
After so many steps the process sends itself the signal, of which 0 is none. With STALE other than
0 it sees no run in its folder, as some shared disks show what was there before.
"""

import json
import os
import pathlib
import sys

import pocket_program

from yolov7_jax.training import distributed, loop, metrics_file
from yolov7_jax.training.progress import Progress

steps = pathlib.Path(sys.argv[1])
patience, after, number, stale = map(int, sys.argv[2:6])
del sys.argv[1:6]
distributed.ARRIVAL_SECONDS, distributed.DISCONNECT_SECONDS = patience, 6
update, done = Progress.update, []


def tell(self, images, epoch, metrics):
    update(self, images, epoch, metrics)
    done.append([float(value) for value in metrics])
    steps.write_text(json.dumps(done))
    if len(done) == after:
        os.kill(os.getpid(), number)


Progress.update = tell
if stale:
    loop.holds_run = lambda folder: False
    loop.read_records = metrics_file.read_records = lambda run: []
sys.exit(pocket_program.run())
