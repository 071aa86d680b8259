#!/usr/bin/env bash
# The benchmarks of a GPU: training step, loss, epoch and inference, with AMP and torch.compile, batches of 1 to 64.
#
#   bash benchmarks/gpu.sh --bundle FILE.tar.gz [--python 3.10 3.12]   with a network: this source and what it needs
#   bash benchmarks/gpu.sh [--trial]                                   on the machine with the GPU; no network needed
#
# The bundle holds all but torch, for Linux on x86-64 and the Python that runs this, and for others that are named.
# There, torch >= 2.4 comes from the machine: from PYTHON, by default python3. Everything else goes into .venv-gpu.
# Figures go to benchmarks/results/gpu and into docs/benchmarks/gpu.md, which names the card. --trial does the same in
# small on the CPU and leaves no figures.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

die() {
    printf 'benchmarks/gpu.sh: %s\n' "$*" >&2
    exit 2
}

# make_bundle FILE [VERSION of Python ...]
make_bundle() {
    local file="$1" builder folder wheels version platforms=()
    shift
    [[ "$file" == *.tar.gz ]] || die "--bundle takes the name of a .tar.gz file, got $file"
    builder="$(bash tools/setup_env.sh)"
    folder="$(mktemp -d)"
    # shellcheck disable=SC2064 # as it is named now
    trap "rm -rf '$folder'" EXIT
    wheels="$folder/mmyolo_ext/wheels"
    mkdir -p "$wheels"
    git ls-files -z | tar --create --null --files-from=- | tar --extract --directory="$folder/mmyolo_ext"
    grep -E '^[a-z]' requirements/tested.txt | grep -vE '^(torch|scikit-learn)=' >"$wheels/requirements.txt"
    # what comes as source is built here, once; mmcv is pure Python then, for torch is not in its build environment
    "$builder" -m pip wheel --quiet --wheel-dir "$wheels" --requirement "$wheels/requirements.txt"
    for version in 2_17 2_27 2_28; do platforms+=(--platform "manylinux_${version}_x86_64"); done
    for version in "$@"; do
        "$builder" -m pip download --quiet --only-binary :all: --python-version "$version" "${platforms[@]}" \
            --platform manylinux2014_x86_64 --find-links "$wheels" --dest "$wheels" \
            --requirement "$wheels/requirements.txt"
    done
    tar --create --gzip --file="$file" --directory="$folder" mmyolo_ext
    printf '%s: %s, %d wheels\n' "$file" "$(du -h "$file" | cut -f1)" "$(find "$wheels" -name '*.whl' | wc -l)"
}

# Sets python: that of .venv-gpu, with what the bundle holds and the machine's torch.
install_from_bundle() {
    local base="${PYTHON:-python3}" venv="$root/.venv-gpu" home
    [[ -f wheels/requirements.txt ]] || die 'there are no wheels here: make a bundle where there is a network (--bundle)'
    home="$("$base" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' 2>/dev/null)" ||
        die "$base has no torch: name the interpreter that has, PYTHON=/path/to/python bash benchmarks/gpu.sh"
    "$base" -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4))' ||
        die "torch must be 2.4 or later, $base has $("$base" -c 'import torch; print(torch.__version__)')"
    python="$venv/bin/python"
    if ! cmp --silent wheels/requirements.txt "$venv/installed.txt"; then
        "$base" -m venv --clear --system-site-packages "$venv" || die "$base cannot make $venv: is its venv module there?"
        # an interpreter that is itself a virtual environment does not hand on its packages
        "$python" -c 'import torch' 2>/dev/null ||
            printf '%s\n' "$home" >"$("$python" -c 'import site; print(site.getsitepackages()[0])')/machine_torch.pth"
        "$python" -m pip install --quiet --no-index --find-links wheels --requirement wheels/requirements.txt
        cp wheels/requirements.txt "$venv/installed.txt"
    fi
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
}

# Sets data and note: BCCD, or synthetic images instead.
choose_data() {
    data=data/bccd/ note=''
    if [[ ! -f data/bccd/annotations/trainval.json ]]; then
        data="$scratch/data/" note="On $1 synthetic images instead of BCCD."
        "$python" benchmarks/synthetic.py "$data" --images "$1"
    fi
}

on_the_gpu() {
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        die 'torch sees no GPU here; --trial runs in small on the CPU'
    results=benchmarks/results/gpu doc=docs/benchmarks/gpu.md
    choose_data 292
    run_benchmark step 2 '' --device cuda --sizes 640 --batches 1 4 16 64 --precisions float32 amp bfloat16 \
        --layouts channels-last --compile
    run_benchmark loss 2 '' --device cuda --images 1 4 16 64
    run_benchmark epoch 2 "$note" --device cuda --amp --data "$data"
    run_benchmark inference 2 '' --device cuda --models YOLOv5n --batches 1 4 16 64
}

on_the_cpu_in_small() {
    results="$scratch/results" doc="$scratch/page.md"
    cp docs/benchmarks/gpu.md "$doc"
    choose_data 32
    run_benchmark step 1 '' --device cpu --sizes 64 --batches 2 --steps 1 --precisions float32 --layouts channels-last
    run_benchmark loss 1 '' --device cpu --size 64 --images 2 --repeats 5 --only bfloat16
    run_benchmark epoch 1 "$note" --device cpu --data "$data" --only epoch
    run_benchmark inference 1 '' --device cpu --models YOLOv5n --forms PyTorch 'PyTorch, fused' --sizes 64 \
        --repeats 5 --repeat-ms 1
    cat "$doc"
}

case "${1:-}" in
    --bundle)
        (($# == 2)) || [[ $# -gt 3 && "$3" == --python ]] || die 'use: --bundle FILE.tar.gz [--python 3.10 3.12]'
        make_bundle "$2" "${@:4}"
        exit
        ;;
    '' | --trial) ;;
    *) die "unknown option $1: see the head of this file" ;;
esac
install_from_bundle
# shellcheck source=benchmarks/each.sh
. benchmarks/each.sh
if [[ "${1:-}" == --trial ]]; then on_the_cpu_in_small; else on_the_gpu; fi
report_the_end benchmarks/gpu.sh
