#!/usr/bin/env bash
# Packs what a notebook instance needs into one file, for a bucket that its role can read:
#
#   bundle.sh CMKFS OUT.tar.gz
#
# CMKFS is a release build for the instance, of glibc 2.34 or older (Amazon Linux 2023). Prints the
# SHA-256, which belongs into on-create.sh and on-start.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
    echo "bundle: $*" >&2
    exit 1
}

[ $# -eq 2 ] || fail "usage: bundle.sh CMKFS OUT.tar.gz"
[ -x "$1" ] || fail "$1 is no program: build one with cargo build --release --locked"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/units"
install -m 755 "$1" "$work/cmkfs"
install -m 755 "$here/notebook.sh" "$here/auto-stop.sh" "$work/"
install -m 644 "$here/adopt.py" "$here/idle.py" "$work/"
install -m 644 "$here"/*.service "$here"/*.timer "$work/units/"
# The same files give the same digest.
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf - . |
    gzip -n >"$2"
sha256sum "$2" | cut -d' ' -f1
