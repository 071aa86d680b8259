# What run.sh and gpu.sh share; they set python, results and doc before they call it.
# shellcheck shell=bash disable=SC2154

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
export MPLBACKEND=Agg
skipped=() failed=()

# run_benchmark NAME THREADS NOTE [options of the benchmark]: runs it, keeps its figures and fills the page.
run_benchmark() {
    local name="$1" threads="$2" note="$3" start=$SECONDS status=0
    shift 3
    OMP_NUM_THREADS="$threads" "$python" "benchmarks/$name.py" "$@" >"$scratch/out" 2>"$scratch/err" || status=$?
    # one whose figures fall short of its bound prints them, and fails
    "$python" benchmarks/page.py "$name" --keep "$name" --results "$results" --doc "$doc" --note "$note" \
        <"$scratch/out" || status="${status/#0/1}"
    if ((status)); then
        failed+=("$name")
        printf '%s: failed with code %d\n' "$name" "$status"
        tail -n 20 "$scratch/err" >&2
    else
        printf '%s: %d s\n' "$name" $((SECONDS - start))
    fi
}

skip_benchmark() {
    skipped+=("$1: $2")
    printf '%s: skipped, %s\n' "$1" "$2"
}

# Names what was skipped and what failed; ends with 1 if anything failed.
report_the_end() {
    printf '%s: %d s in all\n' "$1" "$SECONDS"
    ((${#skipped[@]} == 0)) || printf 'skipped %s\n' "${skipped[@]}"
    if ((${#failed[@]})); then
        printf 'failed: %s\n' "${failed[*]}"
        exit 1
    fi
}
