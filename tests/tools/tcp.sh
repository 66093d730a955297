#!/usr/bin/env bash
# Prints the path of a program that runs another one with servers of TCP and their clients on its PATH: PostgreSQL (initdb, postgres, pg_ctl,
# psql, pgbench) and Redis (redis-server, redis-cli, redis-benchmark). It is the one that OUTRIGGER_TEST_TCP names, the one fetched before, or
# a fresh one out of Debian's packages (see fetch.sh).
#
#     "$(tests/tools/tcp.sh)" psql --version
set -euo pipefail
# shellcheck source=tests/tools/fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

runs() {
    "$1" initdb --version && "$1" postgres --version && "$1" pg_ctl --version && "$1" psql --version && "$1" pgbench --version &&
        "$1" redis-server --version && "$1" redis-cli --version && "$1" redis-benchmark --version
}

place() {
    local beside=$2.d
    rm -rf "$beside"
    mv "$1" "$beside"
    # The client's package has a wrapper of the same name, which looks for installed clusters.
    rm -f "$beside/usr/bin/psql" "$beside/usr/bin/pgbench"
    local libraries
    # shellcheck disable=SC2016  # for the wrapper to expand, where it is moved to
    libraries=$(cd "$beside" && find . -name '*.so.*' -printf '%h\n' | sort -u | sed 's:^\.:$beside:' | paste -sd:)
    cat >"$work/wrapper" <<SCRIPT
#!/bin/sh
beside="\$(cd "\$(dirname "\$0")" && pwd)/$(basename "$beside")"
PATH="\$beside/usr/lib/postgresql/15/bin:\$beside/usr/bin:\$PATH" LD_LIBRARY_PATH="$libraries" exec "\$@"
SCRIPT
    chmod +x "$work/wrapper"
    # A rename within one file system: no other process sees half a script.
    mv "$work/wrapper" "$2"
}

find_or_fetch tcp-tools "PostgreSQL and Redis" OUTRIGGER_TEST_TCP bookworm postgresql-15 postgresql-client-15 redis-server redis-tools \
    libpq5 libxml2 libicu72 libldap-2.5-0 libsasl2-2 liblz4-1 libzstd1 libreadline8 libedit2 libbsd0 libmd0 libgssapi-krb5-2 libkrb5-3 \
    libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1 libxslt1.1 libllvm14 libjemalloc2 liblzf1 liblua5.1-0 lua-cjson lua-bitop \
    libhiredis0.14 libatomic1 libsystemd0
