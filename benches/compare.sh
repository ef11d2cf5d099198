#!/usr/bin/env bash
# cmkfs side by side with other encrypting filesystems from their Debian packages: installs them,
# builds cmkfs, runs the same work on all, and prints a table.
#
#   benches/compare.sh [--fs NAME,...] [--backing DIR] [--rounds N] [--only WORKLOAD,...]
#                      [--json FILE] [--tar FILE]
#
# --help lists the rest. Needs root, to mount, and /dev/fuse. CMKFS names a binary to use instead of
# building one. For figures that mean something, leave the machine alone meanwhile; --backing
# /dev/shm leaves the disk out. All of it takes about 20 minutes on two cores.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(dirname "$here")

fail() {
    echo "compare: $*" >&2
    exit 1
}

install() {
    command -v apt-get >/dev/null || fail "no apt-get to install $* with: install them yourself"
    echo "installing $*" >&2
    export DEBIAN_FRONTEND=noninteractive
    if ! apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; then
        apt-get update -qq >&2
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    fi
}

[ "$(id -u)" -eq 0 ] || fail "needs root, to mount: sudo $0 $*"
command -v python3 >/dev/null || install python3
for argument; do
    case $argument in
    -h | --help) exec python3 "$here/compare.py" --help ;;
    esac
done
[ -e /dev/fuse ] || fail "no /dev/fuse: load the module (modprobe fuse), or give the container" \
    "the device (docker run --device /dev/fuse --cap-add SYS_ADMIN ...)"
missing=$(python3 "$here/compare.py" --missing "$@")
# shellcheck disable=SC2086 # One word a package.
[ -z "$missing" ] || install $missing

if [ -z "${CMKFS:-}" ]; then
    command -v cargo >/dev/null || fail "no cargo: install Rust (https://rustup.rs), or set CMKFS"
    (cd "$project" && cargo build --release --locked --bin cmkfs >&2)
    CMKFS=${CARGO_TARGET_DIR:-$project/target}/release/cmkfs
fi
export CMKFS
exec python3 "$here/compare.py" "$@"
