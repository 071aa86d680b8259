#!/usr/bin/env bash
# Sets up the environment if need be, then checks style, builds the documentation and runs the tests.
#
#   bash tests/run.sh [arguments of pytest]      e.g. tests/models -x, or -m 'not slow'
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# Without compiled modules, each of the many processes that the tests start would compile them again.
unset PYTHONDONTWRITEBYTECODE
printf '[1/4] environment\n'
python="$(bash tools/setup_env.sh --test)"

# The tests' tensors are small: more threads than one per worker process cost more than they give.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MPLBACKEND=Agg

# Every check runs, and any of them fails the whole.
failed=()
printf '[2/4] style (%d s)\n' "$SECONDS"
"$python" -m ruff check . || failed+=('ruff check')
"$python" -m ruff format --check . || failed+=('ruff format')

printf '[3/4] documentation (%d s)\n' "$SECONDS"
"$python" -m sphinx -q -W --keep-going -E -b html docs docs/_build/html || failed+=('documentation')

printf '[4/4] tests (%d s)\n' "$SECONDS"
# A worker a core; the tests of a file stay together, since they share what is costly to make.
# conftest.py says which files come first.
"$python" -m pytest --numprocesses "${TEST_WORKERS:-auto}" --dist loadfile --no-loadscope-reorder "$@" || failed+=('pytest')
printf 'tests/run.sh: %d s in all\n' "$SECONDS"
if ((${#failed[@]})); then
    printf 'failed: %s\n' "$(IFS=, && printf '%s' "${failed[*]}")"
    exit 1
fi
