#!/usr/bin/env bash
# Instructions in user space per proxied request, counted by callgrind:
#
#     benches/tools/instructions.sh [BINARY] [PROFILE]
#
# BINARY defaults to target/release/outrigger. PROFILE, when given, receives callgrind's output of the longer run, for
# callgrind_annotate. The figure is the slope between a run of 4,000 and one of 24,000 requests (GET with a response of 1 KiB,
# 16 kept-alive connections, 4 nginx servers, one worker), so that the start and the end of the process are not part of it.
# It needs valgrind, nginx, h2load and curl (Debian's packages: valgrind, nginx-light, nghttp2-client, curl), and ends the
# processes that it started.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
binary=${1:-target/release/outrigger}
profile=${2:-}
PATH=$PATH:/usr/sbin
for tool in valgrind nginx h2load curl; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed" >&2; exit 1; }
done
[[ -x $binary ]] || { echo "$binary does not exist; build it with: make build" >&2; exit 1; }

dir=$(mktemp -d)
nginx=
proxy=
finish() {
    [[ -n $proxy ]] && kill -TERM "$proxy" 2>/dev/null && wait "$proxy"
    [[ -n $nginx ]] && kill -TERM "$nginx" 2>/dev/null && wait "$nginx"
    rm -rf "$dir"
}
trap finish EXIT

body=$(head -c 1024 /dev/zero | tr '\0' x)
{
    echo "daemon off; pid $dir/nginx.pid; error_log $dir/error.log; worker_processes 1;"
    echo "events { worker_connections 1024; }"
    echo "http { access_log off; keepalive_requests 10000000;"
    for kind in client_body proxy fastcgi uwsgi scgi; do echo "${kind}_temp_path $dir/$kind;"; done
    for port in 9811 9812 9813 9814; do
        echo "server { listen 127.0.0.1:$port; location / { return 200 '$body'; } }"
    done
    echo "}"
} >"$dir/nginx.conf"
nginx -p "$dir" -c "$dir/nginx.conf" 2>"$dir/nginx.log" &
nginx=$!
{
    echo "services:"
    echo "  orders: [127.0.0.1:9811, 127.0.0.1:9812, 127.0.0.1:9813, 127.0.0.1:9814]"
} >"$dir/services.yaml"

# Sets `total` to the instructions of a whole process that carries $1 requests.
run() {
    local requests=$1 ready=
    valgrind --tool=callgrind --callgrind-out-file="$dir/out.$requests" "$binary" run --registry-file "$dir/services.yaml" \
        --listen 127.0.0.1:9870 --admin-listen 127.0.0.1:9879 --workers 1 >"$dir/log.$requests" 2>&1 &
    proxy=$!
    for _ in $(seq 300); do
        if curl -sf -o /dev/null -H 'Host: orders' http://127.0.0.1:9870/; then ready=yes; break; fi
        sleep 0.2
    done
    if [[ -z $ready ]]; then
        echo "the proxy did not answer within 60 s:" >&2
        tail -n 5 "$dir/log.$requests" "$dir/nginx.log" >&2
        exit 1
    fi
    h2load --h1 -n "$requests" -c 16 -t 1 -H ':authority: orders' http://127.0.0.1:9870/ >"$dir/load" 2>&1
    if ! grep -q " $requests succeeded, 0 failed" "$dir/load"; then
        echo "requests failed:" >&2
        grep '^requests:' "$dir/load" >&2
        exit 1
    fi
    kill -TERM "$proxy"
    wait "$proxy"
    proxy=
    total=$(sed -nE 's/^(summary|totals): ([0-9]+).*/\2/p' "$dir/out.$requests" | head -n 1)
}

run 4000
short=$total
run 24000
if [[ -n $profile ]]; then cp "$dir/out.24000" "$profile"; fi
echo "$binary: $(((total - short) / 20000)) instructions per request"
