#!/usr/bin/env bash
# Prints the path of a Consul binary for the tests: the one that OUTRIGGER_TEST_CONSUL names, the
# one on PATH, the one fetched before, or a fresh one out of Debian's package.
#
# Debian's last Consul is 1.8.7, in the suite bullseye. It is asked of the mirrors that this
# machine's own apt sources name, into directories of our own: the machine's package lists stay as
# they are, nothing is installed, and no root is needed.
#
# Exit 0: a path on stdout. Exit 3: there is none, and stdout says why in a sentence.
# Safe to run from many tests at once. Takes at most about four minutes, once.
set -euo pipefail

suite=bullseye
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CARGO_TARGET_DIR:-$here/../../target}/tools
binary=$cache/consul
# A failed try is remembered this long, so that a test run without a network fails fast.
remember_minutes=5

none() {
    echo "$1"
    if [[ -d $cache ]]; then echo "$1" >"$cache/consul.unavailable"; fi
    exit 3
}

if [[ -n ${OUTRIGGER_TEST_CONSUL:-} ]]; then
    [[ -x $OUTRIGGER_TEST_CONSUL ]] || { echo "OUTRIGGER_TEST_CONSUL names $OUTRIGGER_TEST_CONSUL, which is no program."; exit 3; }
    echo "$OUTRIGGER_TEST_CONSUL"
    exit 0
fi
if command -v consul; then exit 0; fi

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
binary=$cache/consul
if [[ -x $binary ]]; then echo "$binary"; exit 0; fi

command -v flock >/dev/null || none "There is no consul on PATH, and no flock to guard a download of it."
exec 9>"$cache/consul.lock"
flock --wait 240 9 || none "Another run has been fetching Consul for more than four minutes."
if [[ -x $binary ]]; then echo "$binary"; exit 0; fi
if [[ -n $(find "$cache" -maxdepth 1 -name consul.unavailable -mmin -$remember_minutes) ]]; then
    cat "$cache/consul.unavailable"
    exit 3
fi

for tool in apt-get dpkg-deb timeout; do
    command -v $tool >/dev/null ||
        none "There is no consul on PATH, and no $tool to fetch Debian's: install Consul 1.8 and put it on PATH."
done

work=$(mktemp -d "$cache/consul.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root"

# The archives that apt already uses, security suites apart: they carry no whole suite.
archives() {
    {
        # shellcheck disable=SC2016  # the variables are apt's
        apt-get indextargets --format '$(REPO_URI)' 2>/dev/null || true
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            sed -nE 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p'
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
            sed -nE 's/^URIs:[[:space:]]*//p' | tr -s ' ' '\n'
    } | sed 's:/*$::' | grep -E '^[a-z+]+:/' | grep -v security | awk '!seen[$0]++' | head -n 4
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
signed=""
if [[ -r $keyring ]]; then signed="[signed-by=$keyring] "; fi

apt_options=(
    -o "Dir::Etc::sourcelist=$work/sources.list"
    -o "Dir::Etc::sourceparts=/dev/null"
    -o "Dir::State::Lists=$work/lists"
    -o "Dir::Cache=$work"
    -o "Dir::Cache::archives=$work/archives"
    -o "Acquire::Languages=none"
    -o "Acquire::Retries=1"
    -o "Acquire::http::Timeout=15"
    -o "Acquire::https::Timeout=15"
    # The working directory is not readable for apt's own unprivileged user.
    -o "APT::Sandbox::User=root"
)

tried=0
while read -r archive; do
    tried=$((tried + 1))
    echo "deb $signed$archive $suite main" >"$work/sources.list"
    echo "fetching Consul out of Debian's package" >&2
    (cd "$work" &&
        timeout 100 apt-get "${apt_options[@]}" update &&
        timeout 100 apt-get "${apt_options[@]}" download consul) >>"$work/log" 2>&1 </dev/null || continue
    package=$(find "$work" -maxdepth 1 -name 'consul_*.deb' | head -n 1)
    if [[ -z $package ]]; then continue; fi
    dpkg-deb -x "$package" "$work/root"
    "$work/root/usr/bin/consul" version >>"$work/log" 2>&1 || none "Debian's Consul does not run on this machine."
    # A rename within one file system: nobody sees half a binary.
    mv "$work/root/usr/bin/consul" "$binary"
    rm -f "$cache/consul.unavailable"
    echo "$binary"
    exit 0
done < <(archives)

if [[ $tried == 0 ]]; then
    none "There is no consul on PATH, and this machine's apt sources name no archive to fetch it from."
fi
tail -n 5 "$work/log" >&2
none "There is no consul on PATH, and the archives of this machine's apt sources did not give Debian's consul ($suite)."
