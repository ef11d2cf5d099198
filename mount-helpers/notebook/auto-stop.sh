#!/usr/bin/env bash
# Stops the notebook instance that it runs on, after everything is in the volume and, if SNAPSHOTS
# is set, in a snapshot:
#
#   auto-stop.sh [--idle SECONDS]
#
# With --idle only if every kernel and terminal of Jupyter has been idle for so long. If there is no
# snapshot, or the platform refuses, the notebook is mounted again and goes on. The role needs
# sagemaker:StopNotebookInstance.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly METADATA=/opt/ml/metadata/resource-metadata.json
# As Jupyter of a notebook instance serves itself; its certificate is its own.
readonly JUPYTER=https://localhost:8443

fail() {
    echo "auto-stop: $*" >&2
    exit 1
}

# idle_seconds: since anything was last done in a kernel or a terminal, or 0 while a kernel works.
# Where there is neither, since the machine started.
idle_seconds() {
    local what
    for what in sessions terminals; do
        curl --silent --show-error --fail --insecure --max-time 20 "$JUPYTER/api/$what"
        echo
    done | python3 -B "$here/idle.py"
}

wanted=
case ${1:-} in
    '') ;;
    --idle)
        wanted=${2:-}
        [[ $wanted =~ ^[0-9]+$ ]] || fail "--idle: wanted a number of seconds after it"
        ;;
    *) fail "usage: auto-stop.sh [--idle SECONDS]" ;;
esac
if [ -n "$wanted" ]; then
    idle=$(idle_seconds) || fail "Jupyter does not say what it does: the instance goes on"
    if [ "$idle" -lt "$wanted" ]; then
        echo "auto-stop: idle for $idle s, wanted $wanted: the instance goes on"
        exit 0
    fi
fi
name=$(sed -n 's/.*"ResourceName" *: *"\([^"]*\)".*/\1/p' "$METADATA")
[ -n "$name" ] || fail "no ResourceName in $METADATA"

go_on() {
    "$here/notebook.sh" go-on
    systemctl --no-block restart jupyter-server.service
}

# Kernels have files open.
systemctl stop jupyter-server.service
if ! "$here/notebook.sh" stop --or-go-on; then
    go_on
    fail "the volume could not be stopped with a snapshot: the instance goes on"
fi
if ! aws sagemaker stop-notebook-instance --notebook-instance-name "$name"; then
    go_on
    fail "the platform did not stop $name: the instance goes on"
fi
echo "auto-stop: $name is being stopped"
