#!/usr/bin/env bash
# PostgreSQL and Redis with their own clients through TCP upstreams of a sidecar, which this program starts before the registry at
# CONSUL_HTTP_ADDR.
#
# A test is a function `test_NAME`. It fails with the first command that fails (set -e), and says what it expected by
# `same` and `has`. Every command is bounded in time.
#
# Functions are called by name:
# shellcheck disable=SC2317
set -uo pipefail

sidecar=${OUTRIGGER_TEST_BIN:?the binary of the sidecar}
# PostgreSQL refuses to run as root, and another user cannot enter the room.
room=$(mktemp -d /tmp/outrigger-tcp.XXXXXX)
started=()
end_all() {
    kill "${started[@]}" 2>/dev/null
    wait "${started[@]}" 2>/dev/null
    rm -rf "$room"
}
trap end_all EXIT
cd "$room" || exit 1
as_server() { "$@"; }
if [[ $(id -u) == 0 ]]; then
    chown 65534:65534 "$room"
    as_server() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
fi

die() { printf '%s\n' "$*" >&2; exit 1; }
same() { [[ $1 == "$2" ]] || die "expected <$2>, got <$1>"; }
has() { [[ $1 == *"$2"* ]] || die "expected <$2> in <$1>"; }
bounded() { timeout --kill-after=5 60 "$@"; }
# The first ports are the servers', the others those of the sidecar's listeners.
read -r pg1 pg2 redis1 to_all to_one to_redis outbound admin < <(python3 - <<'PY'
import socket
all = [socket.socket() for _ in range(8)]
for one in all:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in all))
PY
)

register() {
    local body="{\"ID\": \"$1\", \"Name\": \"$2\", \"Address\": \"127.0.0.1\", \"Port\": $3}"
    python3 -c 'import os, sys, urllib.request
url = os.environ["CONSUL_HTTP_ADDR"] + "/v1/agent/service/register"
urllib.request.urlopen(urllib.request.Request(url, sys.argv[1].encode(), method="PUT"), timeout=10).read()' "$body"
}
# A PostgreSQL with a table that has its name.
start_postgres() {
    local name=$1 port=$2
    if [[ ! -d $name ]]; then as_server cp -a template "$name"; fi
    as_server postgres -D "$room/$name" -p "$port" -k "$room" -c listen_addresses=127.0.0.1 -c fsync=off \
        -c max_connections=60 >"$name.log" 2>&1 &
    started+=($!)
    until psql -h 127.0.0.1 -p "$port" -U postgres -qc "create table if not exists who as select '$name' as name" >/dev/null 2>&1; do
        ((SECONDS < 60)) || die "$name did not start: $(cat "$name.log")"
        sleep 0.1
    done
}
ask() { bounded psql -X -h 127.0.0.1 -p "$1" -U postgres -Atqc "$2"; }

set_up() {
    set -e
    as_server initdb -D "$room/template" -U postgres -A trust --no-sync >initdb.log 2>&1
    start_postgres pg-1 "$pg1"
    start_postgres pg-2 "$pg2"
    redis-server --port "$redis1" --bind 127.0.0.1 --save '' --dir "$room" >redis.log 2>&1 &
    started+=($!)
    register pg-1 postgres "$pg1"
    register pg-2 postgres "$pg2"
    register pg-one postgres-one "$pg1"
    register redis-1 redis "$redis1"
    cat >sidecar.yaml <<YAML
registry: {consul: {address: "$CONSUL_HTTP_ADDR"}}
outbound: {listen: "127.0.0.1:$outbound"}
admin: {listen: "127.0.0.1:$admin"}
upstreams:
  - {service: postgres, protocol: tcp, listen: "127.0.0.1:$to_all"}
  - {service: postgres-one, protocol: tcp, listen: "127.0.0.1:$to_one"}
  - {service: redis, protocol: tcp, listen: "127.0.0.1:$to_redis"}
YAML
    "$sidecar" run -c sidecar.yaml >sidecar.log 2>&1 &
    started+=($!)
    until [[ $(ask "$to_one" 'select 1' 2>/dev/null) == 1 && $(redis-cli -p "$to_redis" ping 2>/dev/null) == PONG ]]; do
        ((SECONDS < 90)) || die "the sidecar carries nothing: $(ask "$to_one" "select 1" 2>&1) $(redis-cli -p "$to_redis" ping 2>&1) $(tail -n 5 redis.log sidecar.log)"
        sleep 0.1
    done
    set +e
}

test_psql() { same "$(ask "$to_all" 'select 40 + 2')" 42; }
test_psql_each_in_turn() {
    local names
    names=$(for _ in 1 2 3 4 5 6; do ask "$to_all" 'select name from who'; done | sort | uniq -c | tr -s ' ' | paste -sd,)
    same "$names" " 3 pg-1, 3 pg-2"
}
test_psql_copy() {
    ask "$to_one" "copy (select g, md5(g::text) from generate_series(1, 300000) g) to stdout" >copied
    same "$(wc -l <copied)" 300000
    ask "$to_one" "create table copied (g int, h text)"
    bounded psql -X -h 127.0.0.1 -p "$to_one" -U postgres -qc "copy copied from stdin" <copied
    same "$(ask "$to_one" "select count(*) from copied where h = md5(g::text)")" 300000
}
test_psql_cancel() {
    # The cancellation is a connection of its own.
    local said
    said=$(timeout --signal=INT 2 psql -X -h 127.0.0.1 -p "$to_one" -U postgres -c 'select pg_sleep(50)' 2>&1) || true
    has "$said" "canceling statement due to user request"
}
test_pgbench() {
    bounded pgbench -h 127.0.0.1 -p "$to_one" -U postgres -i -s 2 -q postgres
    local said
    said=$(bounded pgbench -h 127.0.0.1 -p "$to_one" -U postgres -c 8 -j 2 -T 3 postgres)
    has "$said" "number of failed transactions: 0 (0.000%)"
    # A connection for each transaction.
    said=$(bounded pgbench -h 127.0.0.1 -p "$to_one" -U postgres -c 4 -C -S -T 2 postgres)
    has "$said" "number of failed transactions: 0 (0.000%)"
}
test_psql_with_a_killed_instance() {
    local n failed=0 whole=0
    for n in 1 2 3 4 5 6; do
        bounded psql -X -h 127.0.0.1 -p "$to_all" -U postgres -Atq -c 'select name from who' -c 'select pg_sleep(3)' \
            -c "select 'whole'" >"session-$n" 2>&1 &
    done
    until [[ $(cat session-? | grep -c pg-) == 6 ]]; do sleep 0.05; done
    as_server pg_ctl -D "$room/pg-2" stop -m immediate -s
    for n in 1 2 3 4 5 6 7 8 9 10; do same "$(ask "$to_all" 'select name from who')" pg-1; done
    for job in $(jobs -p); do
        case " ${started[*]} " in *" $job "*) continue ;; esac
        # Those of the killed one have failed.
        wait "$job" || true
    done
    for n in 1 2 3 4 5 6; do
        if grep -q pg-1 "session-$n"; then
            has "$(cat "session-$n")" whole
            whole=$((whole + 1))
        else
            [[ $(cat "session-$n") != *whole* ]] || die "a session of the killed one has ended whole"
            failed=$((failed + 1))
        fi
    done
    same "$whole $failed" "3 3"
    start_postgres pg-2 "$pg2"
}
test_redis_cli() {
    redis() { bounded redis-cli -p "$to_redis" "$@"; }
    same "$(redis set greeting hello)" OK
    same "$(redis get greeting)" hello
    head -c 3000000 /dev/zero | tr '\0' x | redis -x set large >/dev/null
    same "$(redis strlen large)" 3000000
    redis get large | head -c 3000000 | cmp - <(head -c 3000000 /dev/zero | tr '\0' x)
}
test_redis_subscription() {
    timeout 30 redis-cli -p "$to_redis" subscribe news >heard &
    local client=$! n
    for n in $(seq 100); do
        if [[ $(redis-cli -p "$to_redis" publish news "message-$n") == 1 ]]; then break; fi
        sleep 0.1
    done
    until grep -q "message-$n" heard; do sleep 0.05; done
    kill "$client"
}
test_redis_benchmark() {
    local said
    said=$(bounded redis-benchmark -p "$to_redis" -n 20000 -c 20 -t set,get --csv)
    has "$said" '"SET"'
    has "$said" '"GET"'
    said=$(bounded redis-benchmark -p "$to_redis" -n 20000 -c 20 -P 16 -t set,get --csv)
    has "$said" '"GET"'
}
test_connect_by_curl() {
    # The admin side of the sidecar stands for a web server.
    register web web "$admin"
    local said
    said=$(bounded curl -sS -o /dev/null -w '%{http_connect}' -p -x "http://127.0.0.1:$outbound" http://10.0.0.1:80/ || true)
    same "$said" 421
    said=$(printf 'PING\r\n' | bounded curl -sS -p -x "http://127.0.0.1:$outbound" telnet://redis:6379 --max-time 2 || true)
    has "$said" PONG
}

run() {
    local name=${1#test_}
    local errors=$room/$name.errors
    # Not within a condition: `set -e` would be without effect there.
    (
        trap - EXIT
        set -e
        "$1"
    ) >"$errors" 2>&1
    local code=$?
    if [[ $code == 0 ]]; then
        echo "ok $name"
    else
        cat "$errors"
        echo "fail $name: $(tail -n 3 "$errors" | tr '\n' ' ')"
    fi
}

set_up
for name in $(compgen -A function test_); do run "$name"; done
exit 0
