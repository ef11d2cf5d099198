#!/usr/bin/env bash
# A start on a new machine, and its end without any warning: no unit is stopped.
set -euo pipefail
# shellcheck source=tests/helpers/checks.sh
. /project/tests/helpers/checks.sh

readonly HOME_DIR=/home/ec2-user/SageMaker
rm -f /cloud/bucket/*
bash /cloud/on-start
is_mounted "$HOME_DIR" || die "not mounted"
is 'the secret of customer 17' "$(cat "$HOME_DIR/notebook.ipynb")"
is new "$(cat "$HOME_DIR/new")"
echo 'and was synced' >"$HOME_DIR/synced"
sync "$HOME_DIR/synced"
