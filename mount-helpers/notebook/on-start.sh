#!/usr/bin/env bash
# Lifecycle configuration of a SageMaker notebook instance (notebook-al2023-v1), "Start notebook":
# mounts the volume over the notebook's files at every start, makes it if "Create notebook" did not
# (an instance that was there before), and lets files that are there be encrypted in the background.
# If the mount fails the notebook does not start. Runs as root. Can be run again.
set -euo pipefail
umask 077

# --- settings: the same in on-create.sh ---
# What bundle.sh made, and the SHA-256 that it told.
BUNDLE=s3://BUCKET/cmkfs-notebook.tar.gz
BUNDLE_SHA256=
# The key that wraps the volume's key: kms:ID with an ARN, a key id or an alias.
KEY=kms:alias/notebook
# A pair for the KMS encryption context, as in team=vision, or nothing.
CONTEXT=
# A directory on another disk for a snapshot every hour and at each stop, or nothing.
SNAPSHOTS=
# Stop the instance when Jupyter was idle so long, or nothing.
IDLE_SECONDS=
OWNER=ec2-user
# --- end of the settings ---

# --- the same in on-create.sh ---
readonly PROGRAMS=/opt/cmkfs
readonly DISK=/var/lib/cmkfs/disk
readonly METADATA=/opt/ml/metadata/resource-metadata.json

fail() {
    echo "cmkfs: $*" >&2
    exit 1
}

# The persistent disk, also while the notebook's files are mounted over it. Private, or that mount
# would cover it here too.
attach() {
    mountpoint -q "$DISK" && return
    [ "$(findmnt -n -o FSTYPE --mountpoint "$home" | tail -n 1)" != fuse.cmkfs ] ||
        fail "$home is mounted already, and $DISK does not show its disk"
    mkdir -p "$DISK"
    mount --bind "$home" "$DISK"
    mount --make-private "$DISK"
}

is_wanted() {
    [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$BUNDLE_SHA256" ]
}

# The programs: kept on the persistent disk, fetched if they are missing or others, unpacked to
# where only root can write. What was fetched counts only if it has the right digest.
install_programs() {
    local kept=$DISK/.cmkfs/bundle.tar.gz
    [ -n "$BUNDLE_SHA256" ] || fail "BUNDLE_SHA256 is empty: bundle.sh tells it"
    # The user may have made it, before the disk was covered.
    [ ! -L "$DISK/.cmkfs" ] || fail "$DISK/.cmkfs is a symbolic link: remove it"
    mkdir -p "$DISK/.cmkfs"
    chown root:root "$DISK/.cmkfs"
    chmod 700 "$DISK/.cmkfs"
    mkdir -p "$PROGRAMS"
    if [ ! -f "$kept" ] || ! is_wanted "$kept"; then
        echo "cmkfs: fetching $BUNDLE"
        timeout 120 aws s3 cp --only-show-errors "$BUNDLE" "$PROGRAMS/bundle.new" ||
            fail "$BUNDLE could not be fetched: the role needs s3:GetObject on it"
        is_wanted "$PROGRAMS/bundle.new" ||
            fail "$BUNDLE has the SHA-256 $(sha256sum "$PROGRAMS/bundle.new" | cut -d' ' -f1)," \
                "wanted $BUNDLE_SHA256"
        cp "$PROGRAMS/bundle.new" "$kept.new"
        sync "$kept.new"
        mv "$kept.new" "$kept"
        rm "$PROGRAMS/bundle.new"
    fi
    # Copied first: nobody can change what was checked.
    cp "$kept" "$PROGRAMS/bundle.tar.gz"
    is_wanted "$PROGRAMS/bundle.tar.gz" || fail "$kept was changed while it was read"
    tar -xzf "$PROGRAMS/bundle.tar.gz" --no-same-owner -C "$PROGRAMS"
    rm "$PROGRAMS/bundle.tar.gz"
}

# NAME=VALUE, as a shell and systemd read it alike.
setting() {
    [[ $2 =~ ^[A-Za-z0-9:/._+=@-]*$ ]] ||
        fail "$1: $2 has other characters than A-Z a-z 0-9 : / . _ + = @ -"
    printf '%s=%s\n' "$1" "$2"
}

configure() {
    local region=${AWS_REGION:-${AWS_DEFAULT_REGION:-}}
    if [ -z "$region" ] && [ -f "$METADATA" ]; then
        region=$(sed -n 's/.*"ResourceArn" *: *"arn:[^:]*:sagemaker:\([^:]*\):.*/\1/p' "$METADATA")
    fi
    {
        setting HOME_DIR "$home"
        setting DISK "$DISK"
        setting OWNER "$OWNER"
        setting KEY "$KEY"
        setting CONTEXT "$CONTEXT"
        setting SNAPSHOTS "$SNAPSHOTS"
        setting IDLE_SECONDS "$IDLE_SECONDS"
        [ -z "$region" ] || setting AWS_REGION "$region"
        # Endpoints and where credentials are, never the credentials.
        local name
        for name in AWS_ENDPOINT_URL AWS_ENDPOINT_URL_KMS AWS_CONFIG_FILE \
            AWS_SHARED_CREDENTIALS_FILE AWS_PROFILE; do
            [ -z "${!name:-}" ] || setting "$name" "${!name}"
        done
    } >"$PROGRAMS/notebook.conf"
}

[ "$(id -u)" -eq 0 ] || fail "wanted root, as lifecycle scripts run"
id -u "$OWNER" >/dev/null || fail "no user $OWNER on this machine"
home=$(getent passwd "$OWNER" | cut -d: -f6)/SageMaker
readonly home
[ -d "$home" ] || fail "no directory $home"
attach
install_programs
configure
# --- end ---

"$PROGRAMS/notebook.sh" start
