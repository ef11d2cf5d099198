#!/usr/bin/env bash
# mount(8), umount(8) and fstab(5) with the helpers installed as the README says.
set -euo pipefail
# shellcheck source=tests/helpers/checks.sh
. /project/tests/helpers/checks.sh

install -m 755 /cloud/cmkfs /usr/bin/cmkfs
install -m 755 /project/mount-helpers/mount.cmkfs /sbin/mount.cmkfs
install -m 755 /project/mount-helpers/umount.cmkfs /sbin/umount.fuse.cmkfs
mkdir -p /srv/store /srv/point '/srv/second point' /root
head -c 32 /dev/urandom >/root/key,file
chmod 600 /root/key,file
export HOME=/root
cmkfs init /srv/store --key file:/root/key,file >/dev/null

# A key whose name has a comma is quoted, as mount(8) has it.
mount -t cmkfs /srv/store /srv/point -o 'key="file:/root/key,file",noatime,cache_size=32M'
is_mounted /srv/point || die "not mounted"
is /srv/store "$(findmnt -n -o SOURCE /srv/point)"
printf '#!/bin/sh\necho ran\n' >/srv/point/program
chmod 755 /srv/point/program
is ran "$(/srv/point/program)"
daemon=$(pgrep -f '^cmkfs mount-daemon')
# As systemd calls it.
umount -c /srv/point
# It has waited: the keys are gone with the daemon.
# What is left of a process until somebody asks how it ended is no process.
grep -q '^State:.Z' "/proc/$daemon/status" 2>/dev/null || [ ! -d "/proc/$daemon" ] ||
    die "umount(8) returned before the daemon had ended"

# Words that forbid something are kept.
mount -t cmkfs /srv/store /srv/point -o ro,noexec
expect 126 'Permission denied' bash -c /srv/point/program
expect 1 'Read-only file system' touch /srv/point/new
(cd /srv/point && expect 32 'busy' umount /srv/point)
umount /srv/point

# What is wrong is said, with the exit codes of mount(8).
expect 1 '-o alow_other: no such option; known are ro' \
    mount -t cmkfs /srv/store /srv/point -o alow_other
expect 1 "invalid value '1M'" mount -t cmkfs /srv/store /srv/point -o cache_size=1M
expect 1 'unmount it and mount it again' /sbin/mount.cmkfs /srv/store /srv/point -o remount,ro
expect 1 'wanted STORE and DIR, found 1' /sbin/mount.cmkfs /srv/store
expect 1 '-x: no such flag' /sbin/mount.cmkfs /srv/store /srv/point -vx
expect 32 '/srv/none' mount -t cmkfs /srv/none /srv/point
expect 32 'key' mount -t cmkfs /srv/store /srv/point -o key=file:/root/none
mv /usr/bin/cmkfs /usr/bin/elsewhere
expect 2 'install it' mount -t cmkfs /srv/store /srv/point
mv /usr/bin/elsewhere /usr/bin/cmkfs
is_mounted /srv/point && die "mounted in spite of it"

# -s lets unknown options pass, -f looks and mounts nothing.
mount -f -t cmkfs /srv/store /srv/point
expect 32 '/srv/none' mount -f -t cmkfs /srv/none /srv/point
is_mounted /srv/point && die "mounted by -f"
mount -s -t cmkfs /srv/store /srv/point -o frob=1,ro
expect 1 'Read-only file system' touch /srv/point/new
# A lazy unmount is the kernel's.
umount -l /srv/point

# A line of fstab(5), by everything that init systems read of it.
options='key="file:/root/key,file",_netdev,nofail,x-systemd.requires=network-online.target'
cat >/etc/fstab <<END
/srv/store /srv/second\\040point cmkfs $options,defaults,noatime 0 0
/srv/none /srv/point cmkfs noauto,nofail 0 0
END
mount -a
is_mounted '/srv/second\\040point' || die "not mounted by mount -a"
touch '/srv/second point/new'
# Mounted already: once more changes nothing.
mount -a
is 1 "$(grep -c ' - fuse.cmkfs ' /proc/self/mountinfo)"
umount '/srv/second point'
# With nothing in the environment, as at boot.
env -i /usr/bin/mount '/srv/second point'
is_mounted '/srv/second\\040point' || die "not mounted without an environment"
umount -a -t fuse.cmkfs
is_mounted '/srv/second\\040point' && die "still mounted"
is program "$(cmkfs ls /srv/store:/ | grep -x program)"

# A line that lets users mount: the daemon is the user's own, and what mount(8) forbids is kept.
as_user() {
    setpriv --reuid 4321 --regid 4321 --clear-groups env HOME=/home/ec2-user "$@"
}
as_user mkdir /home/ec2-user/point
as_user cmkfs init /home/ec2-user/store >/dev/null
echo '/home/ec2-user/store /home/ec2-user/point cmkfs user,noauto 0 0' >/etc/fstab
as_user mount /home/ec2-user/point
is 1 "$(pgrep -c -u 4321 -f '^cmkfs mount-daemon')"
as_user cp /bin/true /home/ec2-user/point/program
expect 126 'Permission denied' as_user /home/ec2-user/point/program
as_user umount /home/ec2-user/point
is_mounted /home/ec2-user/point && die "the user could not unmount"
true
