#!/usr/bin/env bash
# From a fresh clone to a trained detector and its predictions, on the CPU of this machine.
#
#   bash tools/quickstart.sh [options of tools/train.py]     e.g. --cfg-options max_epochs=30
#       trains anew each time, in a folder of its own; environment and data are reused
#   bash tools/quickstart.sh --retest
#       tests and draws the last trained detector again
#
# Everything it writes lies in .venv (or the active environment), data/digits and work_dirs/quickstart.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
config=configs/quickstart/yolov5_n_digits.py
runs=work_dirs/quickstart
steps=5
at=''

mode=train
if [[ "${1:-}" == --retest ]]; then
    mode=retest
elif [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '2,/^set /{ s/^# \{0,1\}//; /^set /!p; }' "$0"
    exit
fi

clock() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); }
begin() {
    at="step $1 of $steps, $2"
    printf '[%d/%d] %s (%s)\n' "$1" "$steps" "$2" "$(clock)"
}
stopped() {
    printf '\nstopped in %s, after %s. Run it again: environment and data are kept.\n' "$at" "$(clock)" >&2
    exit 130
}
trap stopped INT TERM

# logged LOG FILTER COMMAND...: the whole output goes to LOG, what FILTER (Python, line by line) lets through is shown.
logged() {
    local log="$1" filter="$2"
    shift 2
    # On Ctrl-C the command ends itself; its readers wait for its last lines.
    if ! "$@" 2>&1 </dev/null | (trap '' INT && tee "$log" | "$python" -u -c "$filter"); then
        printf '\n%s failed; the end of its log:\n\n' "$at" >&2
        tail -n 15 "$log" | sed 's/^/    /' >&2
        printf '\nThe whole log: %s\nTo check the environment: %s -m mmyolo_ext.cli.doctor\n' "$root/$log" "$python" >&2
        exit 1
    fi
}

# The logger's lines, shortened: an epoch's last line or one every ten seconds, and each validation.
read -r -d '' show_training <<'PYTHON' || true
import re, sys, time

shown, is_head = 0.0, False
for line in sys.stdin:
    train = re.search(r'Epoch\(train\)\s+\[\s*(\d+)\]\[\s*(\d+)/(\d+)\]', line)
    if train and (train[2] == train[3] or time.monotonic() - shown > 10):
        shown = time.monotonic()
        eta, loss = (re.search(rf'\b{key}: (.+?)(?:  |$)', line) for key in ('eta', 'loss'))
        eta, loss = (found[1].strip() if found else '?' for found in (eta, loss))
        print(f'  epoch {train[1]:>3}  step {train[2]}/{train[3]}  ETA {eta}  loss {loss}')
    if is_head:  # the line below it holds the scores, a dash for one that is not defined
        ap, ap50 = (score if score == '-' else f'{float(score):.2f}' for score in line.split()[:2])
        print(f'             on validation scenes: mAP50 {ap50}  mAP50-95 {ap}')
    is_head = line.split()[:2] == ['AP', 'AP50']
PYTHON
show_nothing='import sys; sys.stdin.read()'

cd "$root"
begin 1 environment
python="$(bash tools/setup_env.sh)"

begin 2 'handwritten digits'
output="$("$python" -m mmyolo_ext.datasets.digits data/digits)"
printf '  %s\n' "${output##*$'\n'}" # libraries may print lines before it

if [[ "$mode" == train ]]; then
    run="$runs/$(date +%Y%m%d_%H%M%S)"
    mkdir -p "$run"
    begin 3 "training; the whole log: $run/train.log"
    logged "$run/train.log" "$show_training" "$python" tools/train.py "$config" --work-dir "$run" "$@"
else
    begin 3 'training: left out (--retest)'
    best="$({ find "$runs" -name 'best_*.pth' 2>/dev/null || true; } | sort | tail -n 1)"
    run="$(dirname "$best")"
    if [[ -z "$best" ]]; then
        printf 'no trained detector in %s: run it without --retest\n' "$runs" >&2
        exit 1
    fi
fi
best="$(find "$run" -name 'best_*.pth' | sort | tail -n 1)"

begin 4 "testing $best"
logged "$run/test.log" "$show_nothing" "$python" tools/test.py "$config" "$best" --work-dir "$run/test"

begin 5 'predictions on unseen scenes'
logged "$run/predict.log" "$show_nothing" \
    "$python" tools/predict.py "$config" "$best" 'data/digits/test/00000*.jpg' --nms-iou 0.3 --out-dir "$run/predictions"

"$python" - "$run" <<'PYTHON'
import json, pathlib, sys

run = pathlib.Path(sys.argv[1])
for what, path in [
    ('images', 'predictions'), ('best weights', next(run.glob('best_*.pth')).name), ('curves', 'curves.png'),
    ('log', 'train.log'), ('report', 'test/report/index.html'),
]:  # fmt: skip
    if (run / path).exists():
        print(f'  {what:13} {run / path}')
results = max((run / 'test').glob('[0-9]*/*.json'), key=lambda path: path.stat().st_mtime)
scores = {key.split('/')[-1]: value for key, value in json.loads(results.read_text().splitlines()[-1]).items()}
print(f'mAP50 {scores["bbox_mAP_50"]:.2f}  mAP50-95 {scores["bbox_mAP"]:.2f}')
PYTHON
