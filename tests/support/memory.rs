//! What stands in the memory of another process.

use std::fs;
use std::os::unix::fs::FileExt;

/// How often `wanted` stands in the writable memory of a process: one that may be looked at, or of
/// whoever is root.
pub(crate) fn times_in_memory(pid: u32, wanted: &[u8]) -> usize {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("a process's memory");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process's map");
    let mut times = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split_once(' ').expect("columns").0.split_once('-').expect("range");
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("hexadecimal"));
        let mut bytes = vec![0; usize::try_from(end - start).expect("64 bits")];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            times += bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
        }
    }
    times
}
