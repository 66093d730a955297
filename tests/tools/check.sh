#!/usr/bin/env bash
# Runs everything that CI runs, one group of `make` after the other, also after a failed one, and ends with the time of each group.
#
# Exit 0 only when no group failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=tests/tools/times.sh
. tests/tools/times.sh

OUTRIGGER_TIMES=$(mktemp)
export OUTRIGGER_TIMES
trap 'rm -f "$OUTRIGGER_TIMES"' EXIT

failed=()
# run GROUP TARGET...: make these, timed as GROUP. Without a group the target adds the times of its own groups.
run() {
    local group=$1 begun=$SECONDS
    shift
    printf '\n== make %s\n' "$*"
    "${MAKE:-make}" --no-print-directory "$@" || failed+=("$1")
    if [[ -n $group ]]; then add_time "$group" $((SECONDS - begun)); fi
}

run lint lint
run "" test
run foreign test-foreign
run guard guard
run chaos chaos ARGS=--short

printf '\n'
print_times "$OUTRIGGER_TIMES"
if [[ ${#failed[@]} != 0 ]]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
