#!/usr/bin/env bash
# Runs each fuzz target for a time, one after the other:
#
#     fuzz/run.sh [SECONDS]        default 60
#
# No sanitizer: the codec has no unsafe code that one could watch.
#
# It needs a nightly compiler and cargo-fuzz, and installs what is missing; where that fails it says that fuzzing was skipped, and
# exits 0. New inputs go to fuzz/target/corpus; a crash goes to fuzz/artifacts and ends the run with exit status 1.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
seconds=${1:-60}

skip() { echo "skipped: $1"; exit 0; }
cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal ||
    skip "no nightly compiler could be installed"
export PATH="$PATH:$PWD/target/tools/bin"
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked --root target/tools ||
    skip "cargo-fuzz could not be installed"

for target in request response chunked dns; do
    echo "== $target, $seconds s"
    mkdir -p "target/corpus/$target"
    cargo +nightly fuzz run --sanitizer none "$target" "target/corpus/$target" "corpus/$target" -- \
        -max_total_time="$seconds" -max_len=2048 -dict=http.dict -print_final_stats=1 2>&1 | grep -vE '^#|NEW_FUNC' | tail -n 40
    [[ ${PIPESTATUS[0]} == 0 ]] || exit 1
done
