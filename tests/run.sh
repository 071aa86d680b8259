#!/usr/bin/env bash
# Sets up the environment if need be, then checks style and runs the tests.
#
#   bash tests/run.sh [arguments of pytest]      e.g. tests/models -x, or -m 'not slow'
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
printf '[1/3] environment\n'
python="$(bash tools/setup_env.sh --test)"

# The tests' tensors are small: more threads than one per worker process cost more than they give.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MPLBACKEND=Agg

printf '[2/3] style (%d s)\n' "$SECONDS"
"$python" -m ruff check .
"$python" -m ruff format --check .

printf '[3/3] tests (%d s)\n' "$SECONDS"
status=0
"$python" -m pytest "$@" || status=$?
printf 'tests/run.sh: %d s in all\n' "$SECONDS"
exit "$status"
