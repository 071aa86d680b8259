#!/usr/bin/env bash
# Runs the benchmarks one after the other, keeps what each printed as benchmarks/results/NAME.json, and fills
# docs/benchmarks/index.md with it. About an hour on an idle machine.
#
#   bash benchmarks/run.sh [pipeline] [loss] [step] [epoch] [inference] [evaluation] [nms]      all by default
#
# pipeline and epoch need BCCD under data/bccd (docs/benchmarks/index.md) and are skipped without it. A benchmark that
# fails does not stop the others; it is named at the end.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
all=(pipeline loss step epoch inference evaluation nms)
names=("$@")
(($#)) || names=("${all[@]}")
for name in "${names[@]}"; do
    [[ " ${all[*]} " == *" $name "* ]] || { printf 'no benchmark %s; there are: %s\n' "$name" "${all[*]}" >&2; exit 2; }
done

python="$(bash tools/setup_env.sh --test)"
results=benchmarks/results doc=docs/benchmarks/index.md
# shellcheck source=benchmarks/each.sh
. benchmarks/each.sh

for name in "${names[@]}"; do
    case "$name" in
        pipeline | epoch)
            if [[ ! -f data/bccd/annotations/trainval.json ]]; then
                skip_benchmark "$name" 'BCCD is not in data/bccd: see "Blood cells: BCCD" in docs/benchmarks/index.md'
                continue
            fi
            ;;
    esac
    case "$name" in
        pipeline) run_benchmark pipeline 1 '' --memory 2000 ;;
        nms) run_benchmark nms 1 '' ;;
        inference) run_benchmark inference 2 '' --device cpu --batches 1 8 ;;
        evaluation) run_benchmark evaluation 2 '' ;;
        *) run_benchmark "$name" 2 '' --device cpu ;;
    esac
done
report_the_end benchmarks/run.sh
