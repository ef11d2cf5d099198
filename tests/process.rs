//! What the process does to itself so that keys stay in memory. One test: it changes the process.

use std::fs;

use cmkfs::sys::protect_process;

fn status_line(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").expect("own status");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} in /proc/self/status")).trim().to_owned()
}

#[test]
fn core_dumps_are_off_and_the_report_of_locked_memory_is_true() {
    let protection = protect_process();
    assert!(protection.no_core_files && protection.no_tracing, "{protection:?}");

    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    assert_eq!(
        rustix::process::dumpable_behavior().unwrap(),
        rustix::process::DumpableBehavior::NotDumpable
    );

    let before = locked_kib();
    let touched = std::hint::black_box(vec![1_u8; 8 << 20]);
    let grown = locked_kib() - before;
    drop(touched);
    assert_eq!(protection.no_swap, grown >= 8 << 10, "{protection:?}, {grown} KiB more locked");
    assert_eq!(protection.no_swap, protection.missing.is_empty(), "{protection:?}");
}

fn locked_kib() -> u64 {
    let line = status_line("VmLck:");
    line.trim_end_matches(" kB").parse().unwrap_or_else(|_| panic!("VmLck {line}"))
}
