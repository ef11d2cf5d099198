#!/usr/bin/env bash
# The first command: builds cmkfs, runs a training job on it, and searches what is left on the disk
# for plaintext.
#
#   docker/first-job.sh [ROOT]
#
# ROOT is a new or an empty directory; the job sees ROOT/opt/ml and ROOT/tmp. Without it a new
# directory under TMPDIR is used and removed afterwards. CMKFS names a binary to use instead of
# building one; JOB_TRAIN_BYTES and JOB_EPOCHS make the job smaller or larger.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(dirname "$here")

fail() {
    echo "first-job: $*" >&2
    exit 1
}

say() {
    printf '\n== %s\n' "$*"
}

# need COMMAND PACKAGE: installs PACKAGE where COMMAND is missing.
need() {
    command -v "$1" >/dev/null && return
    local sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    command -v apt-get >/dev/null || fail "$1 is missing, and no apt-get to install $2 with"
    echo "installing $2"
    if ! "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$2" >/dev/null 2>&1; then
        "${sudo[@]}" apt-get update -qq
        "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$2" >/dev/null
    fi
    command -v "$1" >/dev/null || fail "$1 is still missing after installing $2"
}

[ $# -le 1 ] || fail "usage: docker/first-job.sh [ROOT]"
need python3 python3
[ "$(id -u)" -eq 0 ] || need fusermount3 fuse3
[ -e /dev/fuse ] || fail "no /dev/fuse: load the module (modprobe fuse), or give the container" \
    "the device (docker run --device /dev/fuse --cap-add SYS_ADMIN ...)"

export PYTHONDONTWRITEBYTECODE=1
if [ -z "${CMKFS:-}" ]; then
    command -v cargo >/dev/null || fail "no cargo: install Rust (https://rustup.rs)"
    say "build"
    need cc gcc
    (cd "$project" && cargo build --release --locked --bin cmkfs)
    CMKFS=${CARGO_TARGET_DIR:-$project/target}/release/cmkfs
fi

work=$(mktemp -d)
# Nothing is removed through a mount that outlived the job.
cleanup() {
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
root=${1:-$work/root}
mkdir -p "$root"
root=$(cd "$root" && pwd)
[ -z "$(ls -A "$root")" ] || fail "$root is not empty: give a new or an empty directory"
store=$root/var/lib/cmkfs/training

say "training job on cmkfs: opt/ml and tmp below $root"
# The two streams are kept apart: the job's own lines, and the figures of cmkfs.
{
    "$CMKFS" run --role training --root "$root" --store "$store" --keep-store -- \
        python3 "$here/train.py" 2>&1 1>&3 3>&- | tee "$work/cmkfs.stderr" >&2
} 3>&1 | tee "$work/job.cmkfs"
[ -f "$store/volume.json" ] || fail "no store at $store after the job"

say "the same job on a plain directory, as a control"
mkdir -p "$work/control/tmp"
env -u SM_MODEL_DIR -u SM_CHANNEL_TRAIN -u SM_OUTPUT_DATA_DIR \
    SAGEMAKER_BASE_DIR="$work/control/opt/ml" TMPDIR="$work/control/tmp" \
    python3 "$here/train.py" | tee "$work/job.plain"

say "search for plaintext: first in the control copy, where it must be found, then below $root"
python3 "$here/search.py" plant "$work/control"
python3 "$here/search.py" control "$work/control" | tee "$work/search.control"
python3 "$here/search.py" store "$root" | tee "$work/search.store"

say "figures"
python3 "$here/figures.py" "$work" "$store"
[ $# -eq 0 ] || echo "the store, whose key is gone, is left in $store"
