#!/usr/bin/env bash
# Prints the path of a program that runs another one with clients of HTTP/2 on its PATH (curl, nghttp, h2load), and with nginx. It is the one
# that OUTRIGGER_TEST_HTTP2 names, the one fetched before, or a fresh one out of Debian's packages (see fetch.sh).
#
#     "$(tests/tools/http2.sh)" h2load --version
set -euo pipefail
# shellcheck source=tests/tools/fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

runs() {
    "$1" curl --version && "$1" nghttp --version && "$1" h2load --version && "$1" nginx -v
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
beside="\$(cd "\$(dirname "\$0")" && pwd)/$(basename "$beside")"
PATH="\$beside/usr/bin:\$beside/usr/sbin:\$PATH" LD_LIBRARY_PATH="$libraries" exec "\$@"
SCRIPT
    chmod +x "$work/wrapper"
    # A rename within one file system: no other process sees half a script.
    mv "$work/wrapper" "$2"
}

find_or_fetch http2-tools "curl, nghttp2 and nginx" OUTRIGGER_TEST_HTTP2 bookworm curl nghttp2-client nginx libcurl4 libnghttp2-14 \
    libssl3 libev4 libc-ares2 libjemalloc2 libxml2 libicu72 libjansson4 libpcre2-8-0 libcrypt1 zlib1g libidn2-0 librtmp1 libssh2-1 libpsl5 \
    libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1 libldap-2.5-0 libsasl2-2 libzstd1 libbrotli1 \
    libunistring2 libgnutls30 libhogweed6 libnettle8 libgmp10 libp11-kit0 libtasn1-6 libffi8 libsystemd0 liblz4-1 liblzma5
