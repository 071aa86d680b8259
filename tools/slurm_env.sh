# Sourced by slurm_train.sh and slurm_test.sh: needs $here, $partition and $job; gives $srun.
# Variables: GPUS (tasks in all, 8), GPUS_PER_NODE (at most 8), CPUS_PER_TASK (5), SRUN_ARGS (more options of srun),
# GRES (what a node gives, gpu:GPUS_PER_NODE; empty on a cluster without GPUs), PYTHON.
source "$here/dist_env.sh"
gpus=${GPUS:-8}
whole_number GPUS "$gpus" 1
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
whole_number GPUS_PER_NODE "$per_node" 1
if ((gpus % per_node)); then
    echo "error: GPUS must be a multiple of GPUS_PER_NODE, got $gpus and $per_node" >&2
    exit 2
fi
if ! command -v srun >/dev/null; then
    echo "error: srun was not found: start this on a node of a slurm cluster, or use tools/dist_train.sh" >&2
    exit 2
fi
gres=${GRES-gpu:$per_node}
# Options of srun hold no spaces, so a list of words is enough.
read -ra more <<<"${SRUN_ARGS:-}"
srun=(srun --partition="$partition" --job-name="$job" ${gres:+--gres="$gres"} --ntasks="$gpus"
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1
    ${more[@]+"${more[@]}"} "$python" -u)
