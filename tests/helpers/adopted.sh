#!/usr/bin/env bash
# An instance that had files before it got the lifecycle configuration: only on-start.sh runs.
set -euo pipefail
# shellcheck source=tests/helpers/checks.sh
. /project/tests/helpers/checks.sh

readonly HOME_DIR=/home/ec2-user/SageMaker DISK=/var/lib/cmkfs/disk

# What the files are: name, owner, mode, bytes, links, time, and what is in them.
described() {
    (
        cd "$1"
        find . -mindepth 1 ! -path './lost+found' ! -path './.cmkfs*' \
            -printf '%p %U:%G %m %s %n %T@ %l %y\n' | grep -v ' d$'
        find . -mindepth 1 -type d ! -path './lost+found' ! -path './.cmkfs*' \
            -printf '%p %U:%G %m %n %T@ %y\n'
        find . -type f ! -path './.cmkfs*' -exec sha256sum {} +
        find . -type f -exec getfattr -d -m '^user' {} + 2>/dev/null
    ) | sort
}

cd "$HOME_DIR"
echo 'the secret of customer 17' >notebook.ipynb
setfattr -n user.kernel -v python3 notebook.ipynb
mkdir -p 'work/of two'/deep empty
head -c 3000000 /dev/urandom >work/data
ln work/data 'work/of two/data again'
ln -s ../work/data 'work/of two/to data'
ln -s /nowhere broken
mkfifo work/pipe
truncate -s 5M work/sparse
echo tail >>work/sparse
: >$'work/a line\nfeed'
chmod 600 notebook.ipynb
chmod 2750 work
chown -R -h ec2-user:ec2-user .
chown 0:0 work/sparse
find . -mindepth 1 ! -path ./lost+found -exec touch -h -d '2021-02-03 04:05:06.789' {} +
cd /
described "$HOME_DIR" >/run/before
[ "$(wc -l </run/before)" -gt 15 ] || die "too little is described"
device=$(findmnt -n -o SOURCE --mountpoint "$HOME_DIR")
# From the disk: the kernel keeps what it read of a device, whatever a filesystem wrote since.
is_on_disk() {
    sync
    blockdev --flushbufs "$device"
    grep -a -q 'secret of customer' "$device"
}
is_on_disk || die "the search does not find what is there"

bash /cloud/on-start
is_mounted "$HOME_DIR" || die "not mounted"
await test -e /run/cmkfs-adopt.service.code
is 0 "$(cat /run/cmkfs-adopt.service.code)"
described "$HOME_DIR" >/run/after
diff /run/before /run/after || die "the files are not what they were"
is '' "$(find "$DISK" -mindepth 1 -maxdepth 1 ! -name .cmkfs ! -name lost+found)"
[ "$(du -k "$HOME_DIR/work/sparse" | cut -f1)" -lt 1000 ] || die "the hole is filled"

# Jupyter began anew, in what is mounted now.
is "$(stat -c %d "$HOME_DIR")" \
    "$(stat -L -c %d "/proc/$(cat /run/units/jupyter-server.service)/cwd")"
grep -qx -- '--no-block restart jupyter-server.service' /run/systemctl.log ||
    die "Jupyter was not restarted without waiting for it"

# The user has the files, and nothing of what lies below.
as_user() {
    setpriv --reuid 4321 --regid 4321 --clear-groups "$@"
}
as_user sh -c "echo new >$HOME_DIR/new"
expect 2 'Permission denied' as_user ls "$DISK"
expect 2 'No such file' as_user ls "$HOME_DIR/.cmkfs"

# Once more: nothing changes, nothing is fetched.
described "$HOME_DIR" >/run/before
bash /cloud/on-start
described "$HOME_DIR" >/run/after
diff /run/before /run/after || die "the second run changed the files"
is 1 "$(grep -c '^cp ' /cloud/api.log)"

# While a mount has gone away, nobody writes plaintext.
systemctl stop jupyter-server.service
systemctl stop cmkfs-notebook.service
is_mounted "$HOME_DIR" && die "mounted after the stop"
expect 2 'Permission denied' as_user sh -c "echo plain >$HOME_DIR/plain"
expect 1 '' grep -c 'secret of customer' -r "$HOME_DIR"
# The blocks that the disk has free again hold none of it either.
is_on_disk && die "plaintext is left in free blocks"
true
