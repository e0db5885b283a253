#!/usr/bin/env bash
# Trains on all machines of a TPU slice. Each runs the same command; JAX finds the others.
#
#   NAME=my-slice ZONE=us-east5-b DATA=/shared/coco/data.yaml RUN=/shared/runs/coco train/pods/tpu_slice.sh
#
# The checkout lies in ~/yolov7_jax on every machine; DATA and RUN are on a file system that all share.
# Run it again to continue a run that was preempted.
set -euo pipefail

NAME=${NAME:?the TPU}
ZONE=${ZONE:?its zone}
DATA=${DATA:-/shared/coco/data.yaml}
RUN=${RUN:-/shared/runs/coco}

on_all() {
    gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$1"
}

on_all "cd yolov7_jax && python3 -m venv .venv && .venv/bin/pip install --quiet '.[train,tpu]'"
on_all "cd yolov7_jax && if [ -f '$RUN/config.yaml' ]; then
    .venv/bin/yolov7-jax resume '$RUN'
else
    .venv/bin/yolov7-jax train --recipe p5 --data '$DATA' --output '$RUN' --batch-size 256 --num-workers 16 --worker-processes
fi"
