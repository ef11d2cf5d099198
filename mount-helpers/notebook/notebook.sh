#!/usr/bin/env bash
# The files of a SageMaker notebook instance in a volume of cmkfs, whose ciphertext lies on the
# instance's own persistent disk. Called by the lifecycle scripts and by systemd, as root:
#
#   notebook.sh create     makes the volume, so that a key that can't be used fails the creation
#   notebook.sh start      installs the units, mounts, restarts Jupyter, encrypts what is there
#   notebook.sh mount      what cmkfs-notebook.service does
#   notebook.sh adopt      what cmkfs-adopt.service does
#   notebook.sh snapshot   takes a snapshot to SNAPSHOTS
#   notebook.sh stop       unmounts, and takes a snapshot if SNAPSHOTS is set
#   notebook.sh go-on      mounts again after a stop that was not followed by the machine's
#   notebook.sh delete     destroys the volume and its keys; asks for --yes
#
# notebook.conf beside it has the settings; its variables may come from the environment instead.
set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly UNITS=/etc/systemd/system

fail() {
    echo "notebook: $*" >&2
    exit 1
}

say() {
    echo "notebook: $*"
}

if [ -z "${HOME_DIR:-}" ]; then
    [ -f "$here/notebook.conf" ] || fail "no $here/notebook.conf: the lifecycle scripts write it"
    set -a
    # shellcheck source=/dev/null # Made when the instance starts.
    . "$here/notebook.conf"
    set +a
fi
# The key `local` would lie on a disk that ends with the instance.
export HOME=${HOME:-/root}
readonly own=$DISK/.cmkfs
readonly store=$own/store

is_mounted() {
    [ "$(findmnt -n -o FSTYPE --mountpoint "$HOME_DIR" | tail -n 1)" = fuse.cmkfs ]
}

# The disk as it is below the mount. Private, or the mount would cover it here too.
attach() {
    if ! mountpoint -q "$DISK"; then
        ! is_mounted || fail "$HOME_DIR is mounted already, and $DISK does not show its disk"
        mkdir -p "$DISK"
        mount --bind "$HOME_DIR" "$DISK"
        mount --make-private "$DISK"
    fi
    mkdir -p "$own"
    chown root:root "$own"
    chmod 700 "$own"
}

# The volume, made if there was none. One that is gone is not made anew.
make() {
    [ ! -f "$store/volume.json" ] || return 0
    if [ -e "$own/made" ]; then
        [ -n "$SNAPSHOTS" ] || fail "no volume in $store, and no SNAPSHOTS to restore one from"
        say "no volume in $store: restoring the newest snapshot in $SNAPSHOTS"
        "$here/cmkfs" snapshot restore "$SNAPSHOTS" "$store"
        return 0
    fi
    case $KEY in
        kms:* | secretsmanager:* | file:*) ;;
        *) fail "KEY=$KEY would end with this machine, and the files with it: wanted kms:ID" ;;
    esac
    # What an interrupted run left: there was no data in it yet.
    rm -rf --one-file-system "$store"
    local context=()
    [ -z "$CONTEXT" ] || context=(--context "$CONTEXT")
    "$here/cmkfs" init "$store" --key "$KEY" "${context[@]}"
    sync -f "$store"
    touch "$own/made"
}

# Names on the disk that are not in the volume yet.
is_plain() {
    [ -n "$(find "$DISK" "$own/adopted" -mindepth 1 -maxdepth 1 ! -path "$own" \
        ! -path "$DISK/lost+found" -print -quit 2>/dev/null)" ]
}

mount_volume() {
    attach
    make
    if ! is_mounted; then
        # Over the disk's own directory, which has the ciphertext in it.
        "$here/cmkfs" mount -o nonempty -- "$store" "$HOME_DIR"
        say "$HOME_DIR is mounted"
    fi
    if [ "$(stat -c %u "$HOME_DIR")" -eq 0 ]; then
        chown "$OWNER:$(id -g "$OWNER")" "$HOME_DIR"
        chmod 755 "$HOME_DIR"
    fi
    # Should the mount go away, nothing more is written in plaintext.
    chown root:root "$DISK"
    chmod 555 "$DISK"
}

start() {
    attach
    make
    chmod 755 "$here"
    ln -sf "$here/cmkfs" /usr/local/bin/cmkfs
    install -m 644 "$here"/units/* "$UNITS/"
    systemctl daemon-reload
    if ! systemctl start cmkfs-notebook.service; then
        journalctl -u cmkfs-notebook.service -n 50 --no-pager >&2 || true
        fail "$HOME_DIR could not be mounted: the notebook does not start without it"
    fi
    is_mounted || fail "$HOME_DIR is not mounted, though cmkfs-notebook.service started"
    # It has the directory below the mount open.
    systemctl --no-block restart jupyter-server.service
    if is_plain; then
        say "encrypting the files that are there, in the background (cmkfs-adopt.service)"
        systemctl --no-block start cmkfs-adopt.service
    fi
    [ -z "$SNAPSHOTS" ] || systemctl start cmkfs-notebook-snapshot.timer
    [ -z "$IDLE_SECONDS" ] || systemctl start cmkfs-auto-stop.timer
}

stop() {
    is_mounted || return 0
    systemctl stop cmkfs-adopt.service || true
    if [ -z "$SNAPSHOTS" ]; then
        "$here/cmkfs" stop "$store"
        return
    fi
    local code=0
    "$here/cmkfs" stop "$store" --snapshot "$SNAPSHOTS" || code=$?
    if [ $code -ne 0 ] && is_mounted && [ "${1:-}" != --or-go-on ]; then
        say "no snapshot (exit code $code): unmounting without one" >&2
        "$here/cmkfs" stop "$store"
    fi
    return $code
}

delete() {
    [ "${1:-}" = --yes ] || fail "delete destroys every file in $HOME_DIR for ever: wanted --yes"
    attach
    stop || true
    local snapshots=()
    [ -z "$SNAPSHOTS" ] || snapshots=(--snapshots "$SNAPSHOTS")
    "$here/cmkfs" terminate "$store" --yes "${snapshots[@]}"
    rm -f "$own/made"
    chown "$OWNER:$(id -g "$OWNER")" "$DISK"
    chmod 755 "$DISK"
}

[ "$(id -u)" -eq 0 ] || fail "wanted root: it mounts for $OWNER"
case ${1:-} in
    create)
        attach
        make
        ;;
    start) start ;;
    mount) mount_volume ;;
    adopt) exec python3 -B "$here/adopt.py" "$DISK" "$HOME_DIR" "$own/adopted" ;;
    snapshot)
        [ -n "$SNAPSHOTS" ] || fail "SNAPSHOTS is not set"
        "$here/cmkfs" snapshot create "$store" "$SNAPSHOTS"
        ;;
    stop) stop "${2:-}" ;;
    # By systemd, or the daemon would end with what called this.
    go-on) is_mounted || systemctl restart cmkfs-notebook.service ;;
    delete) delete "${2:-}" ;;
    *) fail "usage: notebook.sh create|start|mount|adopt|snapshot|stop|go-on|delete" ;;
esac
