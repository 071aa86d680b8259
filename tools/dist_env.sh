# Sourced by dist_train.sh and dist_test.sh: needs $here and $processes; gives $python and $rendezvous.
if ! [[ $processes =~ ^[1-9][0-9]*$ ]]; then
    echo "error: PROCESSES must be a whole number of at least 1, got '$processes'" >&2
    exit 2
fi
# PYTHON if it is set, else the active environment's, else that of the .venv which set-up made.
python=${PYTHON:-python}
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$here/../.venv/bin/python" ]; then
    python=$here/../.venv/bin/python
fi
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
cores=$( (nproc || getconf _NPROCESSORS_ONLN || echo 1) 2>/dev/null | head -n 1)
threads=$((cores / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
if [ "${NNODES:-1}" -gt 1 ]; then
    rendezvous=(--nnodes="$NNODES" --node-rank="${NODE_RANK:-0}"
        --master-addr="${MASTER_ADDR:?set MASTER_ADDR}" --master-port="${PORT:-29500}")
elif [ -n "${PORT:-}" ]; then
    rendezvous=(--nnodes=1 --master-addr=127.0.0.1 --master-port="$PORT")
else
    rendezvous=(--standalone) # any free port
fi
