#!/usr/bin/env bash
# Finds or installs what a suite of tests/foreign runs, and prints the path of the program that runs it: an interpreter with
# the library of that name and no other. Python's libraries get a virtual environment each, npm's a folder each, all in
# target/tools/foreign; nothing is installed elsewhere, and no root is needed. Versions are fixed here.
#
#     foreign.sh py-consul | python-consul | python-consul2 | patroni | node-consul | consul-commands | dns-clients | tcp-clients |
#         chromium | grpc | http2-clients
#
# Exit 0: a path on stdout. Exit 3: it cannot be had, and stdout says why in a sentence. Takes at most about five minutes, once.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CARGO_TARGET_DIR:-$here/../../target}/tools/foreign
wanted=${1:?the name of a suite\'s program}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# A failed try is remembered this long, so that a test run without a network fails fast.
remember_minutes=5

none() {
    echo "$1"
    echo "$1" >"$cache/$wanted.unavailable"
    exit 3
}

has() { command -v "$1" >/dev/null; }

# Installs into a fresh folder and moves it to its name, once for each list of packages.
#
#     place_once INSTALL PROGRAM PACKAGE...
place_once() {
    local install=$1 program=$2 room=$cache/$wanted
    shift 2
    if [[ -x $room/$program && "$(cat "$room/packages" 2>/dev/null)" == "$*" ]]; then echo "$room/$program"; exit 0; fi
    has flock || none "There is no flock to guard the installation of $wanted."
    exec 9>"$cache/$wanted.lock"
    flock --wait 300 9 || none "Another run has been installing $wanted for more than five minutes."
    if [[ -x $room/$program && "$(cat "$room/packages" 2>/dev/null)" == "$*" ]]; then echo "$room/$program"; exit 0; fi
    if [[ -n $(find "$cache" -maxdepth 1 -name "$wanted.unavailable" -mmin -$remember_minutes) ]]; then
        cat "$cache/$wanted.unavailable"
        exit 3
    fi
    echo "installing $*" >&2
    rm -rf "$room"
    if ! "$install" "$room" "$@" >"$cache/$wanted.log" 2>&1 </dev/null; then
        tail -n 5 "$cache/$wanted.log" >&2
        rm -rf "$room"
        none "$1 could not be installed from the package registry of this machine's ${install#with_}."
    fi
    echo "$*" >"$room/packages"
    rm -f "$cache/$wanted.unavailable"
    echo "$room/$program"
    exit 0
}

# A virtual environment without a pip of its own, filled by this machine's.
with_pip() {
    local room=$1
    shift
    timeout 60 python3 -m venv --without-pip "$room" &&
        timeout 240 python3 -m pip --python "$room/bin/python" install --quiet --disable-pip-version-check "$@" || return 1
    if [[ $wanted == py-consul ]]; then with_suite "$room" "$1"; fi
}

# The library's own tests, which its source package has. Its root conftest.py starts containers; ours takes its place.
with_suite() {
    local room=$1 package=$2
    mkdir "$room/source" &&
        timeout 200 python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
            --dest "$room/source" "$package" &&
        tar -xzf "$room/source"/*.tar.gz -C "$room/source" --strip-components 1 &&
        mkdir "$room/suite" && mv "$room/source/tests" "$room/suite/tests" && rm -rf "$room/source"
}

with_npm() {
    local room=$1
    shift
    mkdir "$room" &&
        timeout 240 npm install --prefix "$room" --no-audit --no-fund --no-update-notifier --ignore-scripts "$@" || return 1
    cat >"$room/node" <<SCRIPT
#!/bin/sh
NODE_PATH="$room/node_modules" exec node "\$@"
SCRIPT
    chmod +x "$room/node"
}

need_python() {
    has python3 || none "There is no python3 for $wanted."
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || none "$wanted needs Python 3.10 or later."
    python3 -c 'import venv, pip' 2>/dev/null || none "This machine's Python has no venv or no pip to install $wanted with."
}

case $wanted in
py-consul)
    need_python
    place_once with_pip bin/python py-consul==1.8.0 pytest==9.2.0 pytest-asyncio==1.5.0 pytest-timeout==2.4.0 \
        aiohttp==3.14.5 requests==2.34.2 packaging==26.4
    ;;
python-consul)
    need_python
    place_once with_pip bin/python python-consul==1.1.0 requests==2.34.2
    ;;
python-consul2)
    need_python
    place_once with_pip bin/python python-consul2==0.1.5 requests==2.34.2
    ;;
node-consul)
    if ! has node || ! has npm; then none "There is no node or no npm for the npm package consul."; fi
    place_once with_npm node consul@2.0.1
    ;;
patroni)
    need_python
    place_once with_pip bin/python patroni==4.0.4 'psycopg[binary]==3.3.9' py-consul==1.8.0
    ;;
consul-commands)
    # Its script runs the binary that consul.sh finds.
    if ! said=$("$here/consul.sh" 2>/dev/null); then none "$said"; fi
    command -v bash
    ;;
dns-clients)
    # It runs a script with these on its PATH.
    if ! said=$("$here/dns.sh" 2>/dev/null); then none "$said"; fi
    echo "$said"
    ;;
tcp-clients)
    # It runs a script with these on its PATH.
    if ! said=$("$here/tcp.sh" 2>/dev/null); then none "$said"; fi
    echo "$said"
    ;;
chromium)
    # It runs a script with the browser on its PATH.
    if ! said=$("$here/chromium.sh" 2>/dev/null); then none "$said"; fi
    echo "$said"
    ;;
grpc)
    need_python
    place_once with_pip bin/python grpcio==1.85.3 grpcio-health-checking==1.85.1 protobuf==7.36.2
    ;;
http2-clients)
    # It runs a script with these on its PATH.
    has python3 || none "There is no python3 for $wanted."
    if ! said=$("$here/http2.sh" 2>/dev/null); then none "$said"; fi
    echo "$said"
    ;;
*)
    echo "foreign.sh knows no program $wanted"
    exit 3
    ;;
esac
