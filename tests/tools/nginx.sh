#!/usr/bin/env bash
# Prints the path of an nginx for tests/chaos: the one that OUTRIGGER_TEST_NGINX names, the one on PATH or
# in /usr/sbin, the one fetched before, or a fresh one out of Debian's package (see fetch.sh).
#
# Debian's nginx is linked with a few libraries that a machine need not have. They are fetched with it
# and named to it alone, by a script in its place.
set -euo pipefail
# shellcheck source=tests/tools/fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

runs() { "$1" -v; }

place() {
    local beside=$2.d
    rm -rf "$beside"
    mv "$1" "$beside"
    local libraries
    # shellcheck disable=SC2016  # for the wrapper to expand, where it is moved to
    libraries=$(cd "$beside" && find . -name '*.so.*' -printf '%h\n' | sort -u | sed 's:^\.:$beside:' | paste -sd:)
    cat >"$work/wrapper" <<SCRIPT
#!/bin/sh
beside="\$(dirname "\$0")/$(basename "$beside")"
LD_LIBRARY_PATH="$libraries" exec "\$beside/usr/sbin/nginx" "\$@"
SCRIPT
    chmod +x "$work/wrapper"
    # A rename within one file system: no other process sees half a script.
    mv "$work/wrapper" "$2"
}

find_or_fetch nginx nginx OUTRIGGER_TEST_NGINX bookworm nginx libpcre2-8-0 libssl3 libcrypt1 zlib1g
