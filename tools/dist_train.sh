#!/usr/bin/env bash
# Train with several processes, one a GPU; without a GPU they share the CPU.
#   bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
#
# PROCESSES are those of one machine. Variables:
#   NNODES        number of machines, or a range such as 1:4 (elastic)      1
#   MASTER_ADDR   address of the first machine, the same on all             needed where NNODES is not 1
#   PORT          port of the first machine, the same on all                29500; any free one on a single machine
#   NODE_RANK     0 on the first machine; only needed where its address does not tell which one it is
#   MAX_RESTARTS  how often the processes are started again after a failure  0
# With MAX_RESTARTS or a range, --resume is passed: every start takes the newest checkpoint in the work dir.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/dist_env.sh"
set_up_torchrun "$processes"
if [ $restarts = yes ] && ! resumes "$@"; then
    set -- --resume auto "$@"
fi
exec "${torchrun[@]}" "$here/train.py" "$config" --launcher pytorch "$@"
