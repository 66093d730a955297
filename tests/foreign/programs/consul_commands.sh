#!/usr/bin/env bash
# The commands of the consul binary against the registry at CONSUL_HTTP_ADDR, each with what it prints or its exit code.
#
# FOREIGN_READS, if set, is the address that serves the key-value reads instead: then only the tests `test_read_NAME` run, which
# change nothing but this address.
#
# A test is a function `test_NAME`. It fails with the first command that fails (set -e), and says what it expected by
# `same`, `has` and `refused`. Every command is bounded in time. Each test uses keys and names of its own.
#
# Functions are called by name, and code is given to `consul lock` as text:
# shellcheck disable=SC2317,SC2329,SC2016
set -uo pipefail

cd "$FOREIGN_ROOM" || exit 1

consul() { timeout --kill-after=5 25 "$FOREIGN_CONSUL" "$@" </dev/null; }
# The same at the address of reads.
reading() { CONSUL_HTTP_ADDR=${FOREIGN_READS:-$CONSUL_HTTP_ADDR} consul "$@"; }

die() { printf '%s\n' "$*" >&2; exit 1; }
same() { [[ $1 == "$2" ]] || die "expected <$2>, got <$1>"; }
has() { [[ $1 == *"$2"* ]] || die "expected <$2> in <$1>"; }
# Runs a command that must fail with this text.
refused() {
    local text=$1 said
    shift
    if said=$("$@" 2>&1); then die "no failure of: $*"; fi
    has "$said" "$text"
}
# Waits for a command that succeeds, at most 20 s.
soon() {
    local end=$((SECONDS + 20))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || die "not within 20 s: $*"
        sleep 0.05
    done
}

# Key-value store.

test_kv_put_get() {
    has "$(consul kv put cli/one 1)" "Data written to: cli/one"
    same "$(consul kv get cli/one)" 1
}
test_read_kv_get_missing() { refused "No key exists at: cli/missing" reading kv get cli/missing; }
test_read_kv_get_detailed() {
    consul kv put -flags=42 cli/detailed value
    soon reading kv get cli/detailed
    local said
    said=$(reading kv get -detailed cli/detailed)
    has "$said" "Flags            42"
    has "$said" "LockIndex        0"
    has "$said" "Session          -"
}
test_read_kv_get_recurse() {
    consul kv put cli/tree/a 1
    consul kv put cli/tree/b/c 2
    soon reading kv get cli/tree/b/c
    same "$(reading kv get -recurse cli/tree/)" $'cli/tree/a:1\ncli/tree/b/c:2'
    same "$(reading kv get -keys cli/tree/)" $'cli/tree/a\ncli/tree/b/'
    same "$(reading kv get -keys -separator= cli/tree/)" $'cli/tree/a\ncli/tree/b/c'
}
test_read_kv_get_base64() {
    consul kv put cli/plain value
    soon reading kv get cli/plain
    same "$(reading kv get -base64 cli/plain)" dmFsdWU=
}
test_read_kv_get_stale() {
    consul kv put cli/stale 1
    soon reading kv get cli/stale
    same "$(reading kv get -stale cli/stale)" 1
}
test_kv_put_base64_and_file() {
    consul kv put -base64 cli/binary dmFsdWU=
    same "$(consul kv get cli/binary)" value
    printf 'two\nlines' >value.txt
    consul kv put cli/file @value.txt
    same "$(consul kv get cli/file)" $'two\nlines'
}
test_kv_put_cas() {
    consul kv put cli/cas 1
    refused "CAS failed" consul kv put -cas -modify-index=1 cli/cas 2
    local index
    index=$(consul kv get -detailed cli/cas | sed -n 's/ModifyIndex *//p')
    consul kv put -cas -modify-index="$index" cli/cas 3
    same "$(consul kv get cli/cas)" 3
}
test_kv_delete() {
    for key in a b b/c; do consul kv put "cli/delete/$key" 1; done
    consul kv delete cli/delete/a
    refused "CAS failed" consul kv delete -cas -modify-index=1 cli/delete/b
    consul kv delete -recurse cli/delete/b
    same "$(consul kv get -recurse cli/delete/)" ""
}
test_read_kv_export() {
    consul kv put -flags=3 cli/exported/a 1
    soon reading kv get cli/exported/a
    has "$(reading kv export cli/exported/)" '"key": "cli/exported/a"'
}
test_kv_export_import() {
    consul kv put -flags=3 cli/export/a 1
    consul kv put cli/export/b ""
    consul kv export cli/export/ >export.json
    consul kv delete -recurse cli/export/
    has "$(consul kv import @export.json)" "Imported: cli/export/a"
    same "$(consul kv export cli/export/)" "$(cat export.json)"
}
test_kv_acquire_release() {
    local session
    session=$(curl_put /v1/session/create '{"LockDelay":"0s","TTL":"30s"}' | grep -o '"ID": *"[^"]*"' | cut -d'"' -f4)
    consul kv put -acquire -session="$session" cli/acquired mine
    has "$(consul kv get -detailed cli/acquired)" "Session          $session"
    has "$(consul kv get -detailed cli/acquired)" "LockIndex        1"
    consul kv put -release -session="$session" cli/acquired mine
    has "$(consul kv get -detailed cli/acquired)" "Session          -"
}
curl_put() { curl --silent --fail --max-time 10 --request PUT --data "$2" "$CONSUL_HTTP_ADDR$1"; }

# Locks.

test_lock_runs_its_child() {
    same "$(consul lock cli/lock/runs 'echo "held by $CONSUL_LOCK_HELD"')" "held by true"
    same "$(consul kv get -keys cli/lock/runs/)" ""
}
test_lock_exit_code_of_its_child() {
    local code=0
    consul lock -child-exit-code cli/lock/code 'exit 7' || code=$?
    same "$code" 2
    code=0
    consul lock cli/lock/code 'exit 7' || code=$?
    same "$code" 0
}
test_lock_excludes() {
    consul lock cli/lock/excludes "touch held; while [ ! -e free ]; do sleep 0.05; done" &
    local holder=$!
    soon test -e held
    refused "Shutdown triggered or timeout" consul lock -try=1s -monitor-retry=0 cli/lock/excludes 'touch both'
    [[ ! -e both ]] || die "two holders at once"
    touch free
    wait "$holder"
    same "$(consul lock -try=10s cli/lock/excludes 'echo next')" next
}
test_lock_waits_for_its_turn() {
    consul lock cli/lock/turn "touch first; while [ ! -e go ]; do sleep 0.05; done; echo 1 >>order" &
    local first=$!
    soon test -e first
    consul lock cli/lock/turn "echo 2 >>order" &
    local second=$!
    soon waits_at cli/lock/turn
    touch go
    wait "$first" "$second"
    same "$(cat order)" $'1\n2'
}
# Another session than the holder's is there.
waits_at() { (($(curl --silent --max-time 10 "$CONSUL_HTTP_ADDR/v1/session/list" | grep -o '"ID"' | wc -l) >= 2)); }
test_lock_semaphore() {
    for at in 1 2; do
        consul lock -n=2 cli/lock/two "touch place-$at; while [ ! -e end ]; do sleep 0.05; done" &
    done
    soon test -e place-1
    soon test -e place-2
    refused "Shutdown triggered or timeout" consul lock -n=2 -try=1s cli/lock/two 'touch place-3'
    refused "semaphore limit conflict" consul lock -n=3 -try=1s cli/lock/two true
    touch end
    wait
    [[ ! -e place-3 ]] || die "three holders at once"
}
test_lock_lost_ends_its_child() {
    consul lock -monitor-retry=0 cli/lock/lost "touch began; sleep 20; touch ended" &
    local holder=$!
    soon test -e began
    consul kv delete cli/lock/lost/.lock
    local began=$SECONDS
    # Its exit code does not tell a loss.
    wait "$holder" || true
    ((SECONDS - began < 15)) || die "the loss was not noticed"
    [[ ! -e ended ]] || die "its child ran to its end"
}

# Watches.

test_read_watch_key() {
    consul kv put cli/watch/key 1
    soon reading kv get cli/watch/key
    has "$(reading watch -type=key -key=cli/watch/key)" '"Value": "MQ=="'
}
test_read_watch_keyprefix() {
    consul kv put cli/watch/prefix/a 1
    soon reading kv get cli/watch/prefix/a
    has "$(reading watch -type=keyprefix -prefix=cli/watch/prefix/)" '"Key": "cli/watch/prefix/a"'
}
test_read_watch_calls_its_handler_with_each_change() {
    consul kv put cli/watch/changes 1
    soon reading kv get cli/watch/changes
    CONSUL_HTTP_ADDR=${FOREIGN_READS:-$CONSUL_HTTP_ADDR} timeout 20 "$FOREIGN_CONSUL" watch -type=key -key=cli/watch/changes 'cat >>changes.txt; echo >>changes.txt' &
    local watch=$!
    soon grep -q MQ== changes.txt
    consul kv put cli/watch/changes 2
    soon grep -q Mg== changes.txt
    kill "$watch"
}
test_watch_services() { has "$(consul watch -type=services)" '"consul": []'; }
test_watch_service() {
    consul services register -name=watched -id=watched-1
    has "$(consul watch -type=service -service=watched)" '"ID": "watched-1"'
    consul services deregister -id=watched-1
}
test_watch_nodes() { has "$(consul watch -type=nodes)" '"Datacenter": "dc1"'; }
test_watch_checks() { has "$(consul watch -type=checks)" '"CheckID": "serfHealth"'; }
test_watch_event() {
    consul event -name=watched payload
    soon seen_event watched
    has "$(consul watch -type=event -name=watched)" '"Payload": "cGF5bG9hZA=="'
}
seen_event() { curl --silent --max-time 10 "$CONSUL_HTTP_ADDR/v1/event/list?name=$1" | grep -q '"ID"'; }

# The agent, its services, the catalog.

test_members() {
    local said
    said=$(consul members)
    has "$said" alive
    has "$said" server
    has "$(consul members -detailed)" "role=consul"
    has "$(consul members -status=alive)" alive
    refused "" consul members -status=failed
}
test_info() { has "$(consul info)" "checks = "; }
test_catalog() {
    same "$(consul catalog datacenters)" dc1
    has "$(consul catalog services)" consul
    has "$(consul catalog nodes)" dc1
    has "$(consul catalog nodes -detailed)" "lan="
    has "$(consul catalog nodes -service=consul)" dc1
}
test_services_register_and_deregister() {
    has "$(consul services register -name=cli -id=cli-1 -port=80 -tag=blue -meta=a=b)" "Registered service: cli"
    has "$(consul catalog services -tags)" "blue"
    printf 'service { name = "from-file" id = "file-1" port = 81 check { ttl = "30s" } }' >service.hcl
    consul services register service.hcl
    has "$(consul catalog services)" from-file
    consul services deregister service.hcl
    consul services deregister -id=cli-1
}
test_maint() {
    consul services register -name=maint -id=maint-1
    consul maint -enable -service=maint-1 -reason='to be moved'
    has "$(consul maint)" "to be moved"
    consul maint -disable -service=maint-1
    consul maint -enable -reason='the node'
    has "$(consul maint)" "the node"
    consul maint -disable
    same "$(consul maint)" ""
    consul services deregister -id=maint-1
}
test_event() { has "$(consul event -name=deploy v2)" "Event ID: "; }
test_exec_without_agents_that_execute() {
    has "$(consul exec -wait=500ms -wait-repl=100ms uptime)" "0 / 0 node(s) completed / acknowledged"
}
test_reload() { has "$(consul reload)" "Configuration reload triggered"; }
test_rtt_of_unknown_node() { refused 'Could not find a coordinate for node "unknown"' consul rtt unknown; }
test_force_leave_of_unknown_node() { refused "No node found with name 'unknown'" consul force-leave unknown; }
test_acl_without_acls() { refused "ACL support disabled" consul acl bootstrap; }

# What only a whole Consul has.

test_operator_raft() { has "$(consul operator raft list-peers)" leader; }
test_operator_autopilot() { has "$(consul operator autopilot get-config)" CleanupDeadServers; }
test_snapshot() {
    consul kv put cli/snapshot 1
    has "$(consul snapshot save state.snap)" "Saved and verified snapshot"
    consul kv delete cli/snapshot
    has "$(consul snapshot restore state.snap)" "Restored snapshot"
    same "$(consul kv get cli/snapshot)" 1
}
test_config_entries() {
    printf 'Kind = "service-defaults"\nName = "web"\nProtocol = "http"\n' >entry.hcl
    consul config write entry.hcl
    same "$(consul config list -kind service-defaults)" web
    has "$(consul config read -kind service-defaults -name web)" '"Protocol": "http"'
    consul config delete -kind service-defaults -name web
}
test_intentions() {
    consul intention create -deny a b
    has "$(consul intention match b)" "a => b (deny)"
    consul intention delete a b
}
test_connect_ca() { has "$(consul connect ca get-config)" '"Provider": "consul"'; }
test_monitor() {
    local code=0
    timeout --signal=KILL 2 "$FOREIGN_CONSUL" monitor || code=$?
    # It follows the log until it is killed; it waits for a line before it heeds other signals.
    same "$code" 137
}

# The last one: it ends the agent.
test_zz_leave() { has "$(consul leave)" "Graceful leave complete"; }

run() {
    local name=${1#test_} room errors
    room=$FOREIGN_ROOM/$name
    errors=$FOREIGN_ROOM/$name.errors
    mkdir "$room"
    # Not within a condition: `set -e` would be without effect there.
    (
        set -e
        cd "$room"
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

selected=test_
if [[ -n ${FOREIGN_READS:-} ]]; then selected=test_read_; fi
for name in $(compgen -A function "$selected"); do run "$name"; done
exit 0
