#!/usr/bin/env bash
# A disk that lost its store starts from the newest snapshot; then the volume is destroyed.
set -euo pipefail
# shellcheck source=tests/helpers/checks.sh
. /project/tests/helpers/checks.sh

readonly HOME_DIR=/home/ec2-user/SageMaker
rm -rf "$HOME_DIR/.cmkfs/store"
bash /cloud/on-start
is last "$(cat "$HOME_DIR/last")"
is 'the secret of customer 17' "$(cat "$HOME_DIR/notebook.ipynb")"

systemctl stop jupyter-server.service
expect 1 'wanted --yes' /opt/cmkfs/notebook.sh delete
is_mounted "$HOME_DIR" || die "not mounted"
/opt/cmkfs/notebook.sh delete --yes
is_mounted "$HOME_DIR" && die "mounted after the end of its volume"
[ ! -e "$HOME_DIR/.cmkfs/store/volume.json" ] || die "the wrapped keys are there"
is '' "$(ls /cloud/snapshots)"
is ec2-user "$(stat -c %U "$HOME_DIR")"
