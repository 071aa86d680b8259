#!/usr/bin/env bash
# Train with several processes on this machine, one a GPU; without a GPU they share the CPU.
#   bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# On several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT alike everywhere.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/dist_env.sh"
exec "$python" "$here/launch.py" "${rendezvous[@]}" --nproc-per-node="$processes" \
    "$here/train.py" "$config" --launcher pytorch "$@"
