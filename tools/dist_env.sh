# Sourced by the launch scripts; needs $here.
# Gives $python, the functions whole_number and set_up_torchrun, and for the latter $torchrun and $restarts.

whole_number() { # NAME VALUE LEAST
    if ! [[ $2 =~ ^[0-9]+$ ]] || [ "$2" -lt "$3" ]; then
        echo "error: $1 must be a whole number of at least $3, got '$2'" >&2
        exit 2
    fi
}

# PYTHON if it is set, else the active environment's, else that of the .venv which set-up made.
python=${PYTHON:-python}
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$here/../.venv/bin/python" ]; then
    python=$here/../.venv/bin/python
fi
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"

set_up_torchrun() { # PROCESSES
    local nodes=${NNODES:-1} port=${PORT:-${MASTER_PORT:-}} cores threads
    whole_number PROCESSES "$1" 1
    whole_number MAX_RESTARTS "${MAX_RESTARTS:-0}" 0
    if ! [[ $nodes =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || [ "${nodes%:*}" -gt "${nodes#*:}" ]; then
        echo "error: NNODES must be a number of nodes such as 2 or a range such as 1:4, got '$nodes'" >&2
        exit 2
    fi
    cores=$( (nproc || getconf _NPROCESSORS_ONLN || echo 1) 2>/dev/null | head -n 1)
    threads=$((cores / $1))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
    torchrun=("$python" "$here/launch.py" --nnodes="$nodes" --nproc-per-node="$1" --max-restarts="${MAX_RESTARTS:-0}")
    restarts=no
    if [ "${MAX_RESTARTS:-0}" -gt 0 ] || [[ $nodes == *:* ]]; then
        restarts=yes
    fi
    if [ "$nodes" != 1 ]; then
        if [ -z "${MASTER_ADDR:-}" ]; then
            echo "error: NNODES=$nodes needs MASTER_ADDR, the address of the first node, the same on all nodes" >&2
            exit 2
        fi
        torchrun+=(--rdzv-backend=c10d --rdzv-endpoint="$MASTER_ADDR:${port:-29500}"
            --rdzv-id="${RDZV_ID:-${SLURM_JOB_ID:-mmyolo_ext}}")
    elif [ -n "${PORT:-}" ]; then
        torchrun+=(--rdzv-backend=c10d --rdzv-endpoint="127.0.0.1:$PORT" --rdzv-id="${RDZV_ID:-mmyolo_ext}")
    else
        torchrun+=(--standalone) # any free port
    fi
}

# Whether one of the options is --resume.
resumes() {
    local option
    for option in "$@"; do
        [[ $option == --resume || $option == --resume=* ]] && return 0
    done
    return 1
}
