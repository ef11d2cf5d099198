//! `cmkfs run` by the real program: a command inside a volume, its signals and exit code, and that
//! it never writes where nothing is encrypted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/desk.rs"]
mod desk;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use desk::{CMKFS, Desk, await_that, judge, said};
use rustix::process::{Pid, Signal, kill_process};

const STORE: &str = "r/var/lib/cmkfs/training";

/// `cmkfs run --role training --root r` with more flags, and a shell script as its command.
fn job(desk: &Desk, flags: &str, script: &str) -> Command {
    desk.dir("r");
    let mut command = desk.command(&format!("run --role training --root r {flags} -- sh -euc"));
    command.arg(script).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn run(desk: &Desk, flags: &str, script: &str) -> Output {
    let output = job(desk, flags, script).output().unwrap();
    assert_unmounted(desk);
    output
}

#[track_caller]
fn assert_unmounted(desk: &Desk) {
    for path in ["r/opt/ml", "r/tmp"] {
        assert!(!desk.is_mounted(path), "{path}");
    }
}

/// Starts a job and waits until its script has made the file `begun` on the desk.
fn start(desk: &Desk, script: &str) -> Child {
    let child = job(desk, "", script).spawn().unwrap();
    await_that("the command begins", || desk.at("begun").exists());
    child
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).unwrap()
}

/// What lies bare below the mountpoints.
fn bare(desk: &Desk) -> Vec<std::path::PathBuf> {
    let below =
        |path: &str| fs::read_dir(desk.at(path)).unwrap().map(|entry| entry.unwrap().path());
    below("r/opt/ml").chain(below("r/tmp")).collect()
}

#[test]
fn a_command_finds_what_the_platform_documents() {
    let desk = Desk::new();
    let script = r#"
        test "$CMKFS_ROOT/opt/ml" = "$SAGEMAKER_BASE_DIR"
        for dir in "$SM_MODEL_DIR" "$SM_OUTPUT_DIR" "$SM_OUTPUT_DATA_DIR" "$SM_INPUT_DIR" \
            "$SM_INPUT_CONFIG_DIR" "$SAGEMAKER_BASE_DIR/checkpoints" "$TMPDIR"; do
            test -d "$dir"
            test "$(stat -f -c %T "$dir")" = fuseblk || test "$(stat -f -c %T "$dir")" = fuse
        done
        test "$SM_CHANNEL_TRAIN" = "$SAGEMAKER_BASE_DIR/input/data/train"
        test ! -e "$SAGEMAKER_BASE_DIR/code"
        test ! -e "$SM_OUTPUT_DIR/intermediate"
        test "$(stat -c %a "$TMPDIR")" = 1777
        test "$(umask)" = 0027
        echo model > "$SM_MODEL_DIR/model"
        cat "$SM_MODEL_DIR/model"
        env | cut -d= -f1 | grep ^AWS_ || :
    "#;
    desk.dir("r");
    let mut command = Command::new("sh");
    desk.prepare(&mut command);
    let wrapped = format!(
        "umask 027; exec {CMKFS} run --role training --root r -- sh -euc '{}'",
        script.replace('\'', "'\\''")
    );
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    let output = command.args(["-c", &wrapped]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "model\n");
    let told = String::from_utf8(output.stderr).unwrap();
    for part in ["written_bytes", "seconds", "the key is zeroed", "removed"] {
        assert!(told.contains(part), "wanted {part:?} in: {told}");
    }
    assert!(!desk.at(STORE).exists());
    assert_eq!(bare(&desk), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_exit_code_is_the_commands() {
    let desk = Desk::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)] {
        assert_eq!(run(&desk, "", script).status.code(), Some(code));
    }
    assert_eq!(run(&desk, "", "kill -9 $$").status.code(), Some(137));
    assert_eq!(run(&desk, "", "kill -TERM $$").status.code(), Some(143));
    for (command, code) in [("nosuchcommand", 127), ("/etc/passwd", 126)] {
        let args = format!("run --role training --root r -- {command}");
        judge(&args, &desk.command(&args).output().unwrap(), code, &[command]);
    }
}

#[test]
fn signals_reach_the_command() {
    let desk = Desk::new();
    let script = r#"
        for name in TERM INT HUP USR1 USR2 QUIT; do
            trap "echo $name; got=1" $name
        done
        got=
        echo > begun
        for n in 1 2 3 4 5 6; do
            while [ -z "$got" ]; do sleep 0.01; done
            # Before it is told: the next signal may come at once.
            got=
            echo >> count
        done
    "#;
    let child = start(&desk, script);
    let counted = || fs::read_to_string(desk.at("count")).map_or(0, |text| text.lines().count());
    let signals =
        [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, Signal::USR2, Signal::QUIT];
    for (index, signal) in signals.into_iter().enumerate() {
        kill_process(pid(&child), signal).unwrap();
        await_that("the signal arrives", || counted() > index);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "TERM\nINT\nHUP\nUSR1\nUSR2\nQUIT\n");
    assert_unmounted(&desk);
}

#[test]
fn nothing_runs_without_every_mount() {
    let desk = Desk::new();
    desk.dir("r/tmp");
    fs::write(desk.at("r/tmp/there"), "x").unwrap();
    let output = run(&desk, "", "echo ran > begun");
    judge("run", &output, 125, &["r/tmp", "not empty", "was not started"]);
    assert!(!desk.at("begun").exists() && !desk.at(STORE).exists());
    fs::remove_file(desk.at("r/tmp/there")).unwrap();
    let output = run(&desk, "--key vault:x", "echo ran > begun");
    judge("run", &output, 125, &["vault:x"]);
    let output = run(&desk, "--key file:nokey", "echo ran > begun");
    judge("run", &output, 125, &["nokey", "was not started"]);
    assert!(!desk.at("begun").exists() && !desk.at(STORE).exists());
    let output = desk.command("run --role training --root gone -- true").output().unwrap();
    judge("run", &output, 125, &["gone"]);
}

#[test]
fn a_command_that_loses_a_mount_is_killed() {
    let desk = Desk::new();
    let forever = "echo > begun; while :; do echo x >> $TMPDIR/log; sleep 0.01; done";
    let child = start(&desk, forever);
    let lost = Command::new("umount").arg("-l").arg(desk.at("r/opt/ml")).status().unwrap();
    assert!(lost.success());
    let output = child.wait_with_output().unwrap();
    judge("run", &output, 125, &["r/opt/ml", "was killed"]);
    assert_unmounted(&desk);
    assert!(!desk.at(STORE).exists());
}

#[test]
fn a_command_dies_with_its_daemon() {
    let desk = Desk::new();
    let mut child =
        start(&desk, "echo $$ > begun.new; mv begun.new begun; while :; do sleep 0.01; done");
    let command = fs::read_to_string(desk.at("begun")).unwrap();
    let command = Path::new("/proc").join(command.trim());
    assert!(command.exists());
    kill_process(pid(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    await_that("the command is killed", || !command.exists());
    // Its paths answer with errors until they are unmounted; nothing can be written below them.
    fs::write(desk.at("r/tmp/late"), "x").unwrap_err();
    for path in ["r/tmp", "r/opt/ml"] {
        desk.ok(&format!("umount {path}"));
    }
    assert_eq!(bare(&desk), Vec::<std::path::PathBuf>::new());
    // Nobody has the key any more: the next run makes the volume anew.
    assert!(desk.at(STORE).exists());
    let output = run(&desk, "", "test ! -e $TMPDIR/log");
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("whose key is gone"));
}

#[test]
fn a_running_job_can_not_be_unmounted() {
    let desk = Desk::new();
    let child = start(&desk, "echo > begun; while [ ! -e end ]; do sleep 0.01; done");
    for args in ["umount r/tmp", "stop --role training --root r"] {
        judge(args, &desk.command(args).output().unwrap(), 37, &["cmkfs run"]);
    }
    let twice = job(&desk, "", "true").output().unwrap();
    judge("run", &twice, 125, &["r/opt/ml"]);
    assert_eq!(desk.status(STORE)["daemon"]["key_provider"], "transient");
    fs::write(desk.at("end"), "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn what_a_command_leaves_running_ends_before_the_mounts() {
    let desk = Desk::new();
    // Out of the session and of the directory: nothing but its parentage tells whose it is.
    let script = "setsid sh -c 'echo $$ > begun; exec sleep 300' < /dev/null > /dev/null 2>&1 &
        while [ ! -s begun ]; do sleep 0.01; done; exit 3";
    let output = run(&desk, "", script);
    let left = fs::read_to_string(desk.at("begun")).unwrap();
    judge("run", &output, 3, &["left 1 processes running"]);
    assert!(!Path::new("/proc").join(left.trim()).exists());
    assert!(!desk.at(STORE).exists());
}

#[test]
fn nothing_is_written_bare_after_the_command() {
    let desk = Desk::new();
    let script = "(echo > begun; while [ -d $CMKFS_ROOT/opt/ml/model ]; do sleep 0.01; done; \
            echo SECRET > $CMKFS_ROOT/opt/ml/leak) >/dev/null 2>&1 &
        while [ ! -e begun ]; do sleep 0.01; done; exit 0";
    let output = run(&desk, "", script);
    judge("run", &output, 0, &["running: killed"]);
    assert_eq!(bare(&desk), Vec::<std::path::PathBuf>::new());
}

#[test]
fn standard_error_that_takes_nothing_changes_no_exit_code() {
    let desk = Desk::new();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let status = job(&desk, "", "exit 4").stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(4));
    let mut child = job(&desk, "", "echo > begun; exit 5").spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_kept_key_keeps_the_volume_and_a_kept_store_is_unreadable() {
    let desk = Desk::new();
    let kept = run(&desk, "--key local", "echo first > $SM_MODEL_DIR/m");
    assert!(kept.status.success(), "{}", said(&kept));
    let again = run(&desk, "", "cat $SM_MODEL_DIR/m");
    assert_eq!(again.stdout, b"first\n", "{}", said(&again));
    let refused = run(&desk, "--key transient", "true");
    judge("run", &refused, 125, &["has a key that is kept"]);
    desk.ok("terminate --role training --root r --yes");

    let unreadable = run(&desk, "--keep-store", "echo secret > $SM_MODEL_DIR/m");
    assert!(String::from_utf8_lossy(&unreadable.stderr).contains("nobody can read"));
    assert!(desk.at(STORE).exists());
    desk.refused(&format!("ls {STORE}:/"), 21, &["transient", "gone"]);
    desk.ok("terminate --role training --root r --yes");
}

#[test]
fn a_notebook_keeps_its_volume() {
    let desk = Desk::new();
    desk.dir("r");
    let job = |script: &str| {
        let mut command = desk.command("run --role notebook --root r -- sh -euc");
        command.arg(script).output().unwrap()
    };
    let path = "r/home/ec2-user/SageMaker/note";
    let first = job(&format!("echo text > {path}; test -z \"${{SM_MODEL_DIR:-}}\""));
    assert!(first.status.success(), "{}", said(&first));
    let second = job(&format!("cat {path}"));
    assert_eq!(second.stdout, b"text\n", "{}", said(&second));
    assert!(!desk.at(path).exists());
}
