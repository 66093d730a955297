#!/usr/bin/env bash
# Runs everything that CI runs, also after a group that failed, and ends with the time of each group. The guard runs beside the
# foreign programs: nothing else on the machine changes what it counts, and they mostly wait.
#
# Exit 0 only when no group failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=tests/tools/times.sh
. tests/tools/times.sh

OUTRIGGER_TIMES=$(mktemp)
export OUTRIGGER_TIMES
guard_log=$(mktemp)
trap 'rm -f "$OUTRIGGER_TIMES" "$guard_log"' EXIT

# run GROUP TARGET...: make these, timed as GROUP. Without a group the target adds the times of its own groups.
run() {
    local group=$1 begun=$SECONDS ended
    shift
    printf '\n== make %s\n' "$*"
    "${MAKE:-make}" --no-print-directory "$@"
    ended=$?
    if [[ -n $group ]]; then add_time "$group" $((SECONDS - begun)); fi
    return "$ended"
}

failed=()
run lint lint || failed+=(lint)
run "" test || failed+=(test)
run guard guard >"$guard_log" 2>&1 &
guard=$!
run foreign test-foreign || failed+=(test-foreign)
wait "$guard" || failed+=(guard)
cat "$guard_log"
run chaos chaos ARGS=--short || failed+=(chaos)

printf '\n'
print_times "$OUTRIGGER_TIMES" "$SECONDS"
if [[ ${#failed[@]} != 0 ]]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
