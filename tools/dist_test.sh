#!/usr/bin/env bash
# Evaluate with several processes, one a GPU; without a GPU they share the CPU.
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# Several machines: the variables of tools/dist_train.sh.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/dist_env.sh"
set_up_torchrun "$processes"
exec "${torchrun[@]}" "$here/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
