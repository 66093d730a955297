#!/usr/bin/env bash
# Runs every test of the workspace with plain cargo, and ends with one line:
#
#     N passed, N failed, N skipped
#
# Skipped are the tests that this machine cannot run (no Consul could be had, no IPv6): each says why
# on a line `skipped: ...`, and counts as passed for cargo. Exit 0 only when nothing failed.
#
# Arguments go to `cargo test`, for example: tests/tools/run.sh --package outrigger-tests
# With OUTRIGGER_TIMES=FILE, how long each group took is added to this file (see times.sh).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

# shellcheck source=tests/tools/times.sh
. tests/tools/times.sh

cargo=${CARGO:-cargo}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

say() { printf '\n== %s\n' "$*"; }
count() { grep -cE "$1" "$log" || true; }
sum() { sed -nE "s/^test result: .* ([0-9]+) $1.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'; }

selection=("$@")
if [[ $# == 0 ]]; then selection=(--workspace); fi

say "the real Consul"
consul=$(tests/tools/consul.sh) || true
echo "${consul:-none}"

# The binary first: some tests start it.
say "building"
begun=$SECONDS
if ! "$cargo" build --package outrigger || ! "$cargo" test --no-run "${selection[@]}"; then
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi

add_time build $((SECONDS - begun))

# Just built: no test needs to ask cargo again.
OUTRIGGER_TEST_BIN=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug/outrigger
export OUTRIGGER_TEST_BIN

say "testing"
begun=$SECONDS
# Eight at once, also on two cores: the end-to-end tests mostly wait.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-8} RUST_BACKTRACE=${RUST_BACKTRACE:-0} \
    "$cargo" test --no-fail-fast "${selection[@]}" 2>&1 | tee "$log" | add_times_of_tests
ended=${PIPESTATUS[0]}
took=$((SECONDS - begun))

passed=$(sum passed)
failed=$(sum failed)
ignored=$(sum ignored)
said=$(count '^(test .* \.\.\. )?skipped: ')
# A test program that crashed has no result line of its own.
if [[ $ended != 0 && $failed == 0 ]]; then failed=1; fi

if [[ $failed != 0 ]]; then
    say "failed"
    grep -E '^test .* FAILED$|^error: ' "$log" | sort -u
fi
if [[ $said != 0 ]]; then
    say "skipped"
    grep -oE 'skipped: .*' "$log" | sort -u
fi
say "done in $took s"
echo "$((passed - said)) passed, $failed failed, $((said + ignored)) skipped"
[[ $failed == 0 ]]
