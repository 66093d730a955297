#!/usr/bin/env bash
# Clients and servers of DNS against the DNS listener of a sidecar at FOREIGN_DNS, which answers with the instances of services in the
# registry at CONSUL_HTTP_ADDR.
#
# A test is a function `test_NAME`. It fails with the first command that fails (set -e), and says what it expected by
# `same` and `has`. Every command is bounded in time.
#
# Functions are called by name:
# shellcheck disable=SC2317
set -uo pipefail

cd "$FOREIGN_ROOM" || exit 1
host=${FOREIGN_DNS%:*} port=${FOREIGN_DNS##*:}

die() { printf '%s\n' "$*" >&2; exit 1; }
same() { [[ $1 == "$2" ]] || die "expected <$2>, got <$1>"; }
has() { [[ $1 == *"$2"* ]] || die "expected <$2> in <$1>"; }
bounded() { timeout --kill-after=5 25 "$@" </dev/null; }
dig() { bounded dig "@$host" -p "$port" +tries=1 +time=5 "$@"; }
drill() { bounded drill -p "$port" "$@" "@$host"; }
kdig() { bounded kdig "@$host" -p "$port" +time=5 "$@"; }
python() { timeout --kill-after=5 100 python3 -c "import dns.exception, dns.flags, dns.message, dns.query, dns.rdatatype, dns.resolver
host, port = '$host', $port
$1"; }
# Registers one instance of `web`, and sixty of `many`.
register() {
    python3 - <<'PY' || die "not registered"
import json, os, urllib.request
def register(name, service, address, port):
    body = json.dumps({"ID": name, "Name": service, "Address": address, "Port": port, "Tags": ["v2"]}).encode()
    url = os.environ["CONSUL_HTTP_ADDR"] + "/v1/agent/service/register"
    urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"), timeout=10).read()
register("web", "web", "127.0.0.31", 8080)
for n in range(1, 61):
    register(f"many-{n}", "many", f"127.0.2.{n}", 80)
PY
}
# Starts a server, and waits until it answers for `web`: its port, and its command.
serve() {
    local at=$1 end=$((SECONDS + 15))
    shift
    "$@" >server.log 2>&1 &
    server=$!
    trap 'kill "$server"' EXIT
    until [[ $(bounded dig @127.0.0.1 -p "$at" +tries=1 +time=2 +short web.service.consul) == 127.0.0.31 ]]; do
        ((SECONDS < end)) || die "no answer within 15 s: $(cat server.log)"
        sleep 0.1
    done
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

test_dig_short() { same "$(dig +short web.service.consul)" 127.0.0.31; }
test_dig_tcp() { same "$(dig +tcp +short web.service.dc1.consul)" 127.0.0.31; }
test_dig_noedns() {
    local said
    said=$(dig +noedns v2.web.service.consul)
    has "$said" "status: NOERROR"
    [[ $said != *"OPT PSEUDOSECTION"* ]] || die "an OPT record: $said"
}
test_dig_bufsize() {
    has "$(dig +bufsize=512 +ignore many.service.consul)" "flags: qr aa tc rd"
    # It asks again by TCP.
    same "$(dig +bufsize=512 +short many.service.consul | wc -l)" 60
    has "$(dig +bufsize=4096 many.service.consul)" "udp: 1232"
}
test_dig_srv() {
    same "$(dig +short _web._tcp.service.consul SRV)" "1 1 8080 7f00001f.addr.dc1.consul."
    has "$(dig web.service.consul SRV)" "7f00001f.addr.dc1.consul. 0	IN	A	127.0.0.31"
}
test_dig_case() { has "$(dig WeB.sErViCe.CoNsUl)" "WeB.sErViCe.CoNsUl.	0	IN	A	127.0.0.31"; }
test_dig_any() { has "$(dig web.service.consul ANY)" 'HINFO	"RFC8482" ""'; }
test_dig_badvers() { has "$(dig +edns=1 +noednsnegotiation web.service.consul)" "status: BADVERS"; }
test_dig_codes() {
    local said
    said=$(dig nothing.service.consul)
    has "$said" "status: NXDOMAIN"
    has "$said" "consul.			5	IN	SOA"
    has "$(dig AAAA web.service.consul)" "status: NOERROR"
    has "$(dig example.com)" "status: REFUSED"
    has "$(dig n1.node.consul)" "status: REFUSED"
    has "$(dig version.bind CH TXT)" "status: REFUSED"
    has "$(dig +opcode=NOTIFY web.service.consul)" "status: NOTIMP"
    has "$(dig AXFR consul)" "Transfer failed"
}
test_drill() {
    has "$(drill web.service.consul)" "127.0.0.31"
    has "$(drill -t web.service.consul)" "127.0.0.31"
    has "$(drill web.service.consul SRV)" "1 1 8080 7f00001f.addr.dc1.consul."
    has "$(drill nothing.service.consul)" "rcode: NXDOMAIN"
}
test_kdig() {
    same "$(kdig +short web.service.consul)" 127.0.0.31
    same "$(kdig +short +tcp +keepopen web.service.consul many.service.consul | wc -l)" 61
    has "$(kdig +bufsize=512 +ignore many.service.consul)" "TC"
}
test_dnspython() {
    python "
r = dns.resolver.Resolver(configure=False)
r.nameservers, r.port = [host], port
assert [a.address for a in r.resolve('web.service.consul', 'A')] == ['127.0.0.31']
assert len(r.resolve('many.service.consul', 'A')) == 60
s = r.resolve('_web._tcp.service.consul', 'SRV')[0]
assert (s.port, s.weight, s.target.to_text()) == (8080, 1, '7f00001f.addr.dc1.consul.')
try:
    r.resolve('web.service.consul', 'AAAA')
    raise SystemExit('an answer')
except dns.resolver.NoAnswer:
    pass
try:
    r.resolve('nothing.service.consul', 'A')
    raise SystemExit('an answer')
except dns.resolver.NXDOMAIN:
    pass
q = dns.message.make_query('many.service.consul', 'A', use_edns=False)
assert dns.query.udp(q, host, port=port, timeout=5).flags & dns.flags.TC
assert len(dns.query.tcp(q, host, port=port, timeout=5).answer[0]) == 60
"
}
test_unbound_stub_zone() {
    local at
    at=$(free_port)
    cat >unbound.conf <<CONF
server:
  interface: 127.0.0.1@$at
  chroot: ""
  username: ""
  directory: "$PWD"
  pidfile: "$PWD/unbound.pid"
  use-syslog: no
  module-config: "iterator"
  do-not-query-localhost: no
  domain-insecure: "consul"
  do-ip6: no
stub-zone:
  name: "consul"
  stub-addr: $host@$port
remote-control:
  control-enable: no
CONF
    serve "$at" unbound -d -c unbound.conf
    ask() { bounded dig @127.0.0.1 -p "$at" "$@"; }
    same "$(ask +short _web._tcp.service.dc1.consul SRV)" "1 1 8080 7f00001f.addr.dc1.consul."
    same "$(ask +short 7f00001f.addr.dc1.consul)" 127.0.0.31
    same "$(ask +short +tcp many.service.consul | wc -l)" 60
    has "$(ask nothing.service.consul)" "status: NXDOMAIN"
    has "$(ask web.service.consul AAAA)" "status: NOERROR"
}
test_dnsmasq_server() {
    local at
    at=$(free_port)
    serve "$at" dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file --user= --no-resolv --no-hosts \
        --listen-address=127.0.0.1 --bind-interfaces --port="$at" "--server=/consul/$host#$port"
    same "$(bounded dig @127.0.0.1 -p "$at" +short web.service.consul SRV)" "1 1 8080 7f00001f.addr.dc1.consul."
}

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

register
for name in $(compgen -A function test_); do run "$name"; done
exit 0
