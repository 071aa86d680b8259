#!/usr/bin/env bash
# Train under slurm, one task a GPU (without a GPU: one process a task).
#   GPUS=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# Variables: tools/slurm_env.sh. A job that slurm has requeued takes the newest checkpoint in WORK_DIR.
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 work_dir=$4
shift 4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/slurm_env.sh"
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && ! resumes "$@"; then
    set -- --resume auto "$@"
fi
exec "${srun[@]}" "$here/train.py" "$config" --work-dir "$work_dir" --launcher slurm "$@"
