# shellcheck shell=bash
# What the scripts check with; the first check that fails ends them.

die() {
    echo "FAILED: $*" >&2
    exit 99
}

# expect CODE TEXT COMMAND...: the command ends with CODE and says TEXT.
expect() {
    local code=0 said wanted=$1 text=$2
    shift 2
    said=$("$@" 2>&1) || code=$?
    [ $code -eq "$wanted" ] || die "$*: exit code $code, wanted $wanted: $said"
    [[ $said == *"$text"* ]] || die "$*: wanted '$text' in: $said"
}

# is WANTED FOUND
is() {
    [ "$1" = "$2" ] || die "wanted '$1', found '$2'"
}

# await COMMAND...: until it succeeds, a minute at most.
await() {
    local tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 1200 ] || die "not after a minute: $*"
        sleep 0.05
    done
}

is_mounted() {
    grep -q " $1 .* - fuse.cmkfs " /proc/self/mountinfo
}
