#!/usr/bin/env bash
# A new instance: on-create.sh, then on-start.sh; and what is wrong fails the creation.
set -euo pipefail
# shellcheck source=tests/helpers/checks.sh
. /project/tests/helpers/checks.sh

readonly HOME_DIR=/home/ec2-user/SageMaker
with() {
    sed "$1" /cloud/on-create >/run/on-create
    bash /run/on-create
}

expect 1 'wanted 00' with 's|^BUNDLE_SHA256=.*|BUNDLE_SHA256=00|'
[ ! -e "$HOME_DIR/.cmkfs/bundle.tar.gz" ] || die "a bundle that is another one was kept"
expect 1 'could not be fetched' with 's|^BUNDLE=.*|BUNDLE=s3://bucket/none|'
expect 1 'no user somebody' with 's|^OWNER=.*|OWNER=somebody|'
expect 1 'other characters' with "s|^CONTEXT=.*|CONTEXT='a b'|"
expect 25 'alias/none' with 's|^KEY=.*|KEY=kms:alias/none|'
expect 1 'would end with this machine' with 's|^KEY=.*|KEY=local|'
[ ! -e "$HOME_DIR/.cmkfs/store/volume.json" ] || die "a volume without a key"

with 's|^CONTEXT=.*|CONTEXT=team=vision|'
grep -q vision "$HOME_DIR/.cmkfs/store/volume.json" || die "the context is not in the volume"
volume() {
    /opt/cmkfs/cmkfs status "$1" | awk '$1 == "volume" { print $2 }'
}
id=$(volume "$HOME_DIR/.cmkfs/store")
bash /cloud/on-create
bash /cloud/on-start
[ -n "$id" ] || die "no id"
is "$id" "$(volume "$HOME_DIR")"
is 4321:4321:755 "$(stat -c %u:%g:%a "$HOME_DIR")"

# A program on the disk that is another one now is not started.
systemctl stop jupyter-server.service
systemctl stop cmkfs-notebook.service
echo changed >>"$HOME_DIR/.cmkfs/bundle.tar.gz"
fetched=$(grep -c '^cp ' /cloud/api.log)
bash /cloud/on-start
is $((fetched + 1)) "$(grep -c '^cp ' /cloud/api.log)"
