#!/usr/bin/env bash
# A start on a further machine, snapshots, and the stop of an idle instance by auto-stop.sh.
set -euo pipefail
# shellcheck source=tests/helpers/checks.sh
. /project/tests/helpers/checks.sh

readonly HOME_DIR=/home/ec2-user/SageMaker
now=$(date -u +%Y-%m-%dT%H:%M:%S.000000Z)

jupyter() {
    printf '[{"kernel": {"execution_state": "%s", "last_activity": "%s"}}]\n' "$1" "$2" \
        >/cloud/jupyter-sessions.json
}

sed -i -e 's|^SNAPSHOTS=.*|SNAPSHOTS=/cloud/snapshots|' -e 's|^IDLE_SECONDS=.*|IDLE_SECONDS=600|' \
    /cloud/on-start
bash /cloud/on-start
is 'and was synced' "$(cat "$HOME_DIR/synced")"
for unit in cmkfs-notebook-snapshot cmkfs-auto-stop; do
    [ -e "/run/units/$unit.timer" ] || die "$unit.timer was not started"
done

echo '[]' >/cloud/jupyter-terminals.json
jupyter busy 2020-01-01T00:00:00.000000Z
expect 0 'idle for 0 s, wanted 600: the instance goes on' systemctl start cmkfs-auto-stop.service
jupyter idle "$now"
expect 0 'the instance goes on' systemctl start cmkfs-auto-stop.service
rm /cloud/jupyter-sessions.json
expect 1 'Jupyter does not say' systemctl start cmkfs-auto-stop.service
is_mounted "$HOME_DIR" || die "not mounted"

# The platform refuses: the notebook is there again.
touch /cloud/refuse
expect 1 'the platform did not stop lab' /opt/cmkfs/auto-stop.sh
is_mounted "$HOME_DIR" || die "not mounted after a refusal"
[ -e /run/units/jupyter-server.service ] || die "Jupyter is not there after a refusal"
is 1 "$(cmkfs snapshot list /cloud/snapshots | grep -c '^snap-')"
rm /cloud/refuse

# No snapshot, no stop.
mv /cloud/snapshots /cloud/kept
touch /cloud/snapshots
expect 1 'could not be stopped with a snapshot' /opt/cmkfs/auto-stop.sh
is_mounted "$HOME_DIR" || die "not mounted after a snapshot failed"
rm /cloud/snapshots
mv /cloud/kept /cloud/snapshots

systemctl start cmkfs-notebook-snapshot.service
is 2 "$(cmkfs snapshot list /cloud/snapshots | grep -c '^snap-')"
echo last >"$HOME_DIR/last"
jupyter idle 2020-01-01T00:00:00.000000Z
expect 0 'lab is being stopped' systemctl start cmkfs-auto-stop.service
grep -qx 'stop lab: 0 mounted' /cloud/api.log || die "it was mounted when the platform was asked"
is 3 "$(cmkfs snapshot list /cloud/snapshots | grep -c '^snap-')"
