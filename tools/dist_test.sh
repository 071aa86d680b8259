#!/usr/bin/env bash
# Evaluate with several processes on this machine, one a GPU; without a GPU they share the CPU.
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# On several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT alike everywhere.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/dist_env.sh"
exec "$python" "$here/launch.py" "${rendezvous[@]}" --nproc-per-node="$processes" \
    "$here/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
