#!/usr/bin/env bash
# Trains on several GPU hosts without a scheduler: one process a host, with all of its GPUs.
#
#   train/pods/gpu_hosts.sh host1 host2 host3
#
# The checkout with its .venv, DATA and RUN have the same path everywhere; the first host's PORT must be
# reachable. Run it again to continue.
set -euo pipefail

DATA=${DATA:-/shared/coco/data.yaml}
RUN=${RUN:-/shared/runs/coco}
PORT=${PORT:-12345}
HOSTS=("$@")
if [ ${#HOSTS[@]} -lt 2 ]; then
    echo "usage: $0 HOST HOST..." >&2
    exit 2
fi

processes=()
for index in "${!HOSTS[@]}"; do
    # shellcheck disable=SC2029  # all is to be expanded here
    ssh "${HOSTS[index]}" "cd '$PWD' && if [ -f '$RUN/config.yaml' ]; then
        .venv/bin/yolov7-jax resume '$RUN' --processes.coordinator '${HOSTS[0]}:$PORT' --processes.count ${#HOSTS[@]} --processes.index $index
    else
        .venv/bin/yolov7-jax train --recipe p5 --data '$DATA' --output '$RUN' --batch-size 256 --num-workers 16 --processes.coordinator '${HOSTS[0]}:$PORT' --processes.count ${#HOSTS[@]} --processes.index $index
    fi" &
    processes+=($!)
done
for process in "${processes[@]}"; do
    wait "$process"  # fails where it has failed
done
