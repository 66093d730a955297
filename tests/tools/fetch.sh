# What consul.sh and nginx.sh share: finds a program for the tests, or fetches it out of Debian's
# package. Sourced, not run; it sets the shell's options and ends the script.
#
# shellcheck shell=bash
#
#     find_or_fetch PROGRAM NAME VARIABLE SUITE PACKAGE...
#
# prints the path that VARIABLE names, else the one on PATH (/usr/sbin too), else the one fetched before,
# else that of a fresh one. The packages are asked of the mirrors that this machine's own apt sources
# name, into directories of our own: the machine's package lists stay as they are, nothing is installed,
# and no root is needed. The script that sources this gives two functions:
#
#     runs PROGRAM     whether the program at this path runs
#     place ROOT PATH  puts the program of the unpacked packages in ROOT at PATH, at once
#
# Exit 0: a path on stdout. Exit 3: there is none, and stdout says why in a sentence.
# Safe to run from many tests at once. Takes at most about four minutes, once.
set -euo pipefail

# A failed try is remembered this long, so that a test run without a network fails fast.
remember_minutes=5
cache=${CARGO_TARGET_DIR:-$(dirname "${BASH_SOURCE[0]}")/../../target}/tools

none() {
    echo "$1"
    if [[ -d $cache ]]; then echo "$1" >"$cache/$program.unavailable"; fi
    exit 3
}

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

find_or_fetch() {
    program=$1 name=$2 suite=$4
    local variable=$3 said path
    shift 4
    said=${!variable:-}
    if [[ -n $said ]]; then
        [[ -x $said ]] || { echo "$variable names $said, which is no program."; exit 3; }
        echo "$said"
        exit 0
    fi
    if path=$(PATH=$PATH:/usr/sbin command -v "$program"); then echo "$path"; exit 0; fi

    mkdir -p "$cache"
    cache=$(cd "$cache" && pwd)
    local binary=$cache/$program
    if [[ -x $binary ]]; then echo "$binary"; exit 0; fi

    command -v flock >/dev/null || none "There is no $program on PATH, and no flock to guard a download of it."
    exec 9>"$cache/$program.lock"
    flock --wait 240 9 || none "Another run has been fetching $name for more than four minutes."
    if [[ -x $binary ]]; then echo "$binary"; exit 0; fi
    if [[ -n $(find "$cache" -maxdepth 1 -name "$program.unavailable" -mmin -$remember_minutes) ]]; then
        cat "$cache/$program.unavailable"
        exit 3
    fi

    local tool
    for tool in apt-get dpkg-deb timeout; do
        command -v $tool >/dev/null ||
            none "There is no $program on PATH, and no $tool to fetch Debian's: install $name and put it on PATH."
    done

    work=$(mktemp -d "$cache/$program.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root"
    fetch "$@"
}

# Fetches these packages from the first archive that has them, and ends the script.
fetch() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed="" tried=0 archive package
    if [[ -r $keyring ]]; then signed="[signed-by=$keyring] "; fi
    local apt_options=(
        -o "Dir::Etc::sourcelist=$work/sources.list"
        -o "Dir::Etc::sourceparts=/dev/null"
        -o "Dir::State::Lists=$work/lists"
        # What is installed here, perhaps in a newer version, is not what is asked for.
        -o "Dir::State::status=/dev/null"
        -o "Dir::Cache=$work"
        -o "Dir::Cache::archives=$work/archives"
        -o "Acquire::Languages=none"
        -o "Acquire::Retries=1"
        -o "Acquire::http::Timeout=15"
        -o "Acquire::https::Timeout=15"
        # The working directory is not readable for apt's own unprivileged user.
        -o "APT::Sandbox::User=root"
    )
    while read -r archive; do
        tried=$((tried + 1))
        echo "deb $signed$archive $suite main" >"$work/sources.list"
        echo "fetching $name out of Debian's package" >&2
        (cd "$work" &&
            timeout 100 apt-get "${apt_options[@]}" update &&
            timeout 100 apt-get "${apt_options[@]}" download "$@") >>"$work/log" 2>&1 </dev/null || continue
        for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/root"; done
        place "$work/root" "$cache/$program"
        if ! runs "$cache/$program" >>"$work/log" 2>&1; then
            rm -f "$cache/$program"
            none "Debian's $name does not run on this machine."
        fi
        rm -f "$cache/$program.unavailable"
        echo "$cache/$program"
        exit 0
    done < <(archives)

    if [[ $tried == 0 ]]; then
        none "There is no $program on PATH, and this machine's apt sources name no archive to fetch it from."
    fi
    tail -n 5 "$work/log" >&2
    none "There is no $program on PATH, and the archives of this machine's apt sources did not give Debian's ($suite)."
}
