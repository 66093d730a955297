#!/usr/bin/env bash
# Prints the path of a program that runs another one with the clients and servers of DNS that tests use on its PATH: dig, drill,
# kdig, dnsperf, unbound, dnsmasq, and Python's dnspython. It is the one that OUTRIGGER_TEST_DNS names, the one fetched before, or a fresh one
# out of Debian's packages (see fetch.sh).
#
#     "$(tests/tools/dns.sh)" dig -v
set -euo pipefail
# shellcheck source=tests/tools/fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

runs() {
    "$1" dig -v && "$1" drill -v && "$1" kdig -V && "$1" dnsperf -h && "$1" unbound -V && "$1" dnsmasq -v &&
        "$1" python3 -c 'import dns.resolver'
}

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
PATH="\$beside/usr/bin:\$beside/usr/sbin:\$PATH" LD_LIBRARY_PATH="$libraries" PYTHONPATH="\$beside/usr/lib/python3/dist-packages" exec "\$@"
SCRIPT
    chmod +x "$work/wrapper"
    # A rename within one file system: no other process sees half a script.
    mv "$work/wrapper" "$2"
}

find_or_fetch dns-tools "DNS tools" OUTRIGGER_TEST_DNS bookworm bind9-dnsutils bind9-libs knot-dnsutils ldnsutils dnsperf unbound \
    dnsmasq-base python3-dnspython libdnssec9 libfstrm0 libjemalloc2 libknot13 libldns3 liblmdb0 libmaxminddb0 \
    libnetfilter-conntrack3 libnfnetlink0 libnftables1 libnftnl11 libpcap0.8 libprotobuf-c1 libuv1 libxdp1 libzscanner4
