#!/usr/bin/env bash
# Everything that is checked before a change lands, in one command; ends at the first failing step.
#
#   tests/all.sh
#
# Installs what it needs where it is missing: Debian packages with apt-get, a KMS emulator, the
# Python packages of the tests and the suites pjdfstest and fsx in target/test-tools. CMKFS_MOTO and
# CMKFS_PYTHON, if set, name an emulator (moto_server) and an interpreter that are there already;
# CMKFS_PJDFSTEST and CMKFS_FSX the suites' programs. CMKFS_TEST_PROFILE is `dev`, or `release` to
# test what users run; CMKFS_FSX_OPS is how many operations of each mix are tried (200000).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
project=$PWD
profile=${CMKFS_TEST_PROFILE:-dev}
tools=${CARGO_TARGET_DIR:-$project/target}/test-tools
began=$SECONDS
step=start

finish() {
    local code=$?
    [ $code -eq 0 ] || echo "tests/all.sh: FAILED at: $step (exit code $code)" >&2
}
trap finish EXIT

run() {
    step=$1
    shift
    printf '\n== %s (after %d s)\n' "$step" $((SECONDS - began))
    "$@"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Each command that the tests call, and the Debian package that has it.
install_packages() {
    local missing=() pair
    for pair in fusermount3:fuse3 shellcheck:shellcheck getfattr:attr setfacl:acl cc:gcc git:git \
        python3:python3 mkfs.ext4:e2fsprogs rsync:rsync tar:tar strace:strace \
        mount:mount setpriv:util-linux setcap:libcap2-bin pgrep:procps strip:binutils \
        systemd-analyze:systemd groff:groff-base curl:curl; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The versions are pinned: what an emulator gets wrong, the tests know.
install_python_packages() {
    local wanted='moto[server]==5.2.5 boto3==1.44.5 cryptography==50.0.2' venv=$tools/moto
    if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$venv"
        mkdir -p "$tools"
        python3 -m venv "$venv"
        # shellcheck disable=SC2086 # One word a package.
        "$venv/bin/pip" install --quiet --disable-pip-version-check $wanted
        echo "$wanted" >"$venv/installed"
    fi
    export CMKFS_MOTO=$venv/bin/moto_server CMKFS_PYTHON=$venv/bin/python
}

# The versions are pinned: tests/posix.md names tests of theirs.
install_suites() {
    local root=$tools/suites suite
    for suite in pjdfstest@0.2.2 fsx@0.3.2; do
        grep -qF "\"${suite/@/ } " "$root/.crates.toml" 2>/dev/null ||
            cargo install --quiet --locked --root "$root" "$suite"
    done
    export CMKFS_PJDFSTEST=${CMKFS_PJDFSTEST:-$root/bin/pjdfstest}
    export CMKFS_FSX=${CMKFS_FSX:-$root/bin/fsx}
}

check_format() {
    cargo fmt --check
    cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
}

lint_scripts() {
    shellcheck -x benches/*.sh docker/*.sh tests/*.sh .ci/run \
        mount-helpers/*.cmkfs mount-helpers/notebook/*.sh tests/helpers/*.sh \
        tests/helpers/{aws,curl,systemctl}
}

lint() {
    cargo clippy --all-targets --locked --quiet -- -D warnings
    check_dependencies
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --quiet
}

# Tests wait for disks, kernels and timers too: what only computes, lints and documentation, has the
# processors meanwhile.
run_tests() {
    local lints=$tools/lints.log tested=0 linted=0
    cargo test --locked --quiet --profile "$profile" --no-run
    mkdir -p "$tools"
    (
        set -e
        renice -n 19 $BASHPID >/dev/null
        lint
    ) >"$lints" 2>&1 &
    # All that fail are told, not only those of the first binary.
    cargo test --locked --profile "$profile" --no-fail-fast || tested=$?
    wait $! || linted=$?
    printf '\n== lints, dependencies and documentation, meanwhile\n'
    cat "$lints"
    [ $linted -eq 0 ] || echo "tests/all.sh: the lints failed (exit code $linted)" >&2
    [ $tested -eq 0 ] && [ $linted -eq 0 ]
}

# The first command of the README. Continuous integration, whose time is bounded, gives it the
# program that was just tested: a release build takes minutes more.
run_first_job() {
    local built=${CARGO_TARGET_DIR:-$project/target}/$profile/cmkfs
    [ "$profile" != dev ] || built=${CARGO_TARGET_DIR:-$project/target}/debug/cmkfs
    if [ -n "${CI:-}" ]; then
        CMKFS=$built docker/first-job.sh
    else
        docker/first-job.sh
    fi
}

# Building cargo-deny takes minutes, so that only continuous integration installs it. Advisories are
# left out: their list is fetched from a host that not every machine reaches.
check_dependencies() {
    if [ -n "${CI:-}" ] && ! cargo deny --version >/dev/null 2>&1; then
        cargo install --quiet --locked --debug --root "$tools/deny" cargo-deny@0.20.2
    fi
    if cargo deny --version >/dev/null 2>&1; then
        cargo deny --locked check --hide-inclusion-graph bans licenses sources
    else
        echo "no cargo-deny here: deny.toml was not checked (cargo install --locked cargo-deny)"
    fi
}

export PATH=$tools/deny/bin:$PATH
export CARGO_TERM_PROGRESS_WHEN=never
export PYTHONDONTWRITEBYTECODE=1
# A test that finds no credentials must not ask this machine's metadata service for them.
export AWS_EC2_METADATA_DISABLED=true

[ -e /dev/fuse ] || {
    echo "no /dev/fuse: the tests mount; load the module (modprobe fuse)" >&2
    exit 1
}
run "packages" install_packages
if [ -z "${CMKFS_MOTO:-}" ] || [ -z "${CMKFS_PYTHON:-}" ]; then
    run "KMS emulator" install_python_packages
fi
if [ -z "${CMKFS_PJDFSTEST:-}" ] || [ -z "${CMKFS_FSX:-}" ]; then
    run "suites" install_suites
fi
run "format" check_format
run "shellcheck" lint_scripts
run "tests" run_tests
run "first job" run_first_job
printf '\ntests/all.sh: all passed in %d s\n' $((SECONDS - began))
