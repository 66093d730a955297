#!/usr/bin/env bash
# Prints the path of a Consul binary for the tests: the one that OUTRIGGER_TEST_CONSUL names, the
# one on PATH, the one fetched before, or a fresh one out of Debian's package (see fetch.sh).
#
# Debian's last Consul is 1.8.7, in the suite bullseye. It is one static binary.
set -euo pipefail
# shellcheck source=tests/tools/fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

runs() { "$1" version; }

# A rename within one file system: no other process sees half a binary.
place() { mv "$1/usr/bin/consul" "$2"; }

find_or_fetch consul Consul OUTRIGGER_TEST_CONSUL bullseye consul
