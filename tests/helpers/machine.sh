#!/usr/bin/env bash
# One run of a machine that looks like a notebook instance, from power on to power off:
#
#   unshare --mount --pid --fork --kill-child machine.sh DESK SCRIPT
#
# Its files are this machine's own, with every change in memory and lost at the end. What persists
# is DESK/disk.img, an ext4 at /home/ec2-user/SageMaker, and DESK/cloud at /cloud. SCRIPT, a path in
# the project, which is at /project, runs in it as root, as lifecycle scripts do; when it ends, so
# does everything that was started. KMS_URL is where keys are asked for.
set -euo pipefail

desk=$1 script=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$desk/root

mount --make-rprivate /
mkdir -p "$root" "$desk/memory"
mount -t tmpfs -o mode=755 machine "$desk/memory"
mkdir "$desk/memory/upper" "$desk/memory/work"
mount -t overlay machine "$root" \
    -o "lowerdir=/,upperdir=$desk/memory/upper,workdir=$desk/memory/work"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
# For everyone, as udev makes it.
mknod -m 666 "$desk/memory/fuse" c 10 229
mount --bind "$desk/memory/fuse" "$root/dev/fuse"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 run "$root/run"
mkdir -p "$root/cloud" "$root/project" "$root/opt/ml/metadata" "$root/home/ec2-user/SageMaker"
mount --bind "$desk/cloud" "$root/cloud"
mount --bind "$here/../.." "$root/project"
mount -o loop "$desk/disk.img" "$root/home/ec2-user/SageMaker"
echo 'ec2-user:x:4321:4321::/home/ec2-user:/bin/bash' >>"$root/etc/passwd"
echo 'ec2-user:x:4321:' >>"$root/etc/group"
chown 4321:4321 "$root/home/ec2-user"
install -m 755 "$here/systemctl" "$here/aws" "$here/curl" "$root/usr/local/sbin/"
cat >"$root/opt/ml/metadata/resource-metadata.json" <<'END'
{"ResourceArn": "arn:aws:sagemaker:eu-west-1:111122223333:notebook-instance/lab",
 "ResourceName": "lab"}
END
# As systemd has it: what is mounted at one place is seen at its copies.
mount --make-rshared "$root"
exec chroot "$root" /usr/bin/env -i \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/bin:/usr/sbin:/sbin:/bin \
    AWS_SHARED_CREDENTIALS_FILE=/cloud/credentials AWS_CONFIG_FILE=/cloud/config \
    AWS_EC2_METADATA_DISABLED=true ${KMS_URL:+AWS_ENDPOINT_URL_KMS="$KMS_URL"} \
    /bin/bash -euo pipefail "/project/$script"
