#!/usr/bin/env bash
# Prints the path of a program that runs another one with Chromium's headless shell, `chromium-headless-shell`, on its PATH. It is
# the one that OUTRIGGER_TEST_CHROMIUM names, the one fetched before, or a fresh one out of Debian's packages (see fetch.sh).
#
#     "$(tests/tools/chromium.sh)" chromium-headless-shell --version
set -euo pipefail
# shellcheck source=tests/tools/fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

runs() { "$1" chromium-headless-shell --version; }

place() {
    local beside=$2.d
    rm -rf "$beside"
    mv "$1" "$beside"
    mkdir "$beside/bin"
    # The libraries are named to the browser alone.
    cat >"$beside/bin/chromium-headless-shell" <<'SCRIPT'
#!/bin/sh
root="$(dirname "$(dirname "$0")")"
libraries="$root/usr/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu/pulseaudio:$root/lib/x86_64-linux-gnu"
LD_LIBRARY_PATH="$libraries" exec "$root/usr/lib/chromium/chromium-headless-shell" "$@"
SCRIPT
    cat >"$work/wrapper" <<SCRIPT
#!/bin/sh
PATH="\$(cd "\$(dirname "\$0")" && pwd)/$(basename "$beside")/bin:\$PATH" exec "\$@"
SCRIPT
    chmod +x "$beside/bin/chromium-headless-shell" "$work/wrapper"
    # A rename within one file system: no other process sees half a script.
    mv "$work/wrapper" "$2"
}

find_or_fetch chromium-tools Chromium OUTRIGGER_TEST_CHROMIUM bookworm chromium-headless-shell chromium-common \
    fonts-dejavu-core libasound2 \
    libasyncns0 libatk1.0-0 libatspi2.0-0 libblkid1 libbrotli1 libbsd0 libcap2 libdav1d6 libdbus-1-3 libdouble-conversion3 libdrm2 \
    libexpat1 libffi8 libflac12 libfontconfig1 libfreetype6 libgbm1 libgcrypt20 libglib2.0-0 libgpg-error0 libgraphite2-3 \
    libharfbuzz-subset0 libharfbuzz0b libjpeg62-turbo liblcms2-2 liblz4-1 liblzma5 libmd0 libminizip1 libmount1 libmp3lame0 \
    libmpg123-0 libnspr4 libnss3 libogg0 libopenh264-7 libopenjp2-7 libopus0 libpcre2-8-0 libpng16-16 libpulse0 libselinux1 \
    libsndfile1 libsqlite3-0 libsystemd0 libudev1 libvorbis0a libvorbisenc2 libwayland-server0 libx11-6 libxau6 libxcb1 \
    libxcomposite1 libxdamage1 libxdmcp6 libxext6 libxfixes3 libxi6 libxkbcommon0 libxnvctrl0 libxrandr2 libxrender1 libzstd1 zlib1g
