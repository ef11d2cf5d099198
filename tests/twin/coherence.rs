//! One file seen from several sides at once: descriptors, mappings, processes.

use std::process::{Command, Stdio};

use rustix::fs::{OFlags, fsync, ftruncate, stat, unlink};
use rustix::io::{ReadWriteFlags, pwritev2};
use rustix::mm::{MapFlags, ProtFlags};

use crate::calls::*;
use crate::shown::digest;
use crate::stage::{Known, Stage, known, twins, twins_written_back, twins_written_back_in_time};

/// Appends lines from eight processes at once, some through the shell, some by O_APPEND.
const APPENDERS: &str = r"
for i in 1 2 3 4; do
    (n=0; while [ $n -lt 100 ]; do echo shell $i $n ................ >>log; n=$((n+1)); done) &
done
wait
";

fn appended(g: &mut Stage) {
    see!(g, make("log", ""), "ok");
    let shell = Command::new("sh").args(["-euc", APPENDERS]).stdin(Stdio::null()).spawn();
    g.python(
        "
def work(me):
    fd = os.open('log', os.O_WRONLY | os.O_APPEND)
    for n in range(200):
        os.write(fd, b'python %d %d %s\\n' % (me, n, b'x' * (me * 300 + n)))
pids = [child(lambda: work(me)) for me in range(8)]
say('exit codes', [ended(pid) for pid in pids])
",
    );
    see!(g, shell.unwrap().wait().unwrap().code(), "0");
    let mut lines: Vec<_> =
        std::fs::read_to_string("log").unwrap().lines().map(str::to_owned).collect();
    see!(g, lines.len(), "2000");
    lines.sort();
    see!(g, digest(lines.join("\n").as_bytes()));
    let fd = get!(g, open("log", RDWR | APPEND));
    see!(g, ftruncate(&fd, 0), "ok");
    see!(g, write(&fd, "one"), "3");
    // Linux appends whatever the offset.
    see!(g, put(&fd, 0, "two"), "3");
    see!(g, text_of(&fd), "onetwo");
    let other = get!(g, open("log", RDWR));
    see!(g, write(&other, "ONE"), "3");
    let append = ReadWriteFlags::APPEND;
    see!(g, pwritev2(&other, &[std::io::IoSlice::new(b"three")], 0, append), "5");
    see!(g, text_of(&fd), "ONEtwothree");
    see!(g, rustix::fs::fcntl_setfl(&other, OFlags::APPEND), "ok");
    see!(g, write(&other, "four"), "4");
    see!(g, rustix::fs::fcntl_setfl(&other, OFlags::empty()), "ok");
    see!(g, rustix::fs::seek(&other, rustix::fs::SeekFrom::Current(0)), "15");
    see!(g, text_of(&fd), "ONEtwothreefour");
}

/// What is written is there for another process before the writer does anything else.
fn seen_at_once(g: &mut Stage) {
    g.python(
        "
ask, asked = os.pipe()
answer, answered = os.pipe()
def watch():
    fd = os.open('f', os.O_RDONLY)
    memory = mmap.mmap(fd, 40000, prot=mmap.PROT_READ)
    last = os.fstat(fd)
    os.write(answered, b'ready')
    while os.read(ask, 1) == b'?':
        now = os.stat('f')
        text = os.pread(fd, 1 << 20, 0)
        newer = now.st_mtime_ns > last.st_mtime_ns
        end = min(now.st_size, 40000)
        ends = memory[:end] == text[:end]
        said = lambda stat: (stat.st_ino, stat.st_mode, stat.st_size, stat.st_mtime_ns)
        same = said(now) == said(os.fstat(fd))
        os.write(answered, repr((now.st_size, len(text), text[-9:], newer, ends, same)).encode())
        last = now
fd = os.open('f', os.O_CREAT | os.O_RDWR)
os.write(fd, b's' * 40000)
pid = child(watch)
os.close(ask)
os.close(answered)
os.read(answer, 5)
def seen(call):
    os.write(asked, b'?')
    say(call, os.read(answer, 1000).decode())
def tick():
    # Files are stamped by a clock that lags behind this one.
    before = time.time_ns()
    while time.clock_gettime_ns(5) <= before:
        pass
for n in range(5):
    tick()
    os.write(fd, b'appended%d' % n)
    seen('append %d' % n)
tick(); os.pwrite(fd, b'X', 3); seen('written over')
tick(); os.pwrite(fd, b'far out', 50000); seen('written far out')
tick(); os.ftruncate(fd, 49999); seen('cut')
tick(); os.ftruncate(fd, 60000); seen('grown')
tick(); os.posix_fallocate(fd, 0, 61000); seen('allocated')
memory = mmap.mmap(fd, 61000)
tick(); memory[60990:61000] = b'by mapping'; seen('mapped')
tick(); memory.flush(); seen('flushed')
tick(); os.close(os.open('f', os.O_WRONLY | os.O_TRUNC)); seen('truncated by open')
tick(); os.pwrite(fd, b'end', 0); seen('written after it')
os.write(asked, b'.')
say('it ends', ended(pid))
",
    );
}

fn mapped(g: &mut Stage) {
    see!(g, make("f", &"-".repeat(20_000)), "ok");
    let fd = get!(g, open("f", RDWR));
    let map = get!(g, Map::shared(&fd, 20_000));
    map.set(5, "mapped");
    see!(g, text_at(&fd, 0, 12), "-----mapped-");
    map.set(16_380, "across two blocks");
    see!(g, text_at(&fd, 16_378, 21), "--across two blocks--");
    see!(g, put(&fd, 9, "written"), "7");
    see!(g, map.text(0, 18), "-----mappwritten--");
    see!(g, fsync(&fd), "ok");
    let private = get!(g, {
        use std::os::fd::AsFd;
        Map::new(fd.as_fd(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    });
    private.set(0, "private");
    see!(g, text_at(&fd, 0, 9), "-----mapp");
    see!(g, map.sync(libc::MS_SYNC), "ok");
    see!(g, map.sync(libc::MS_ASYNC), "ok");
    see!(g, map.sync(libc::MS_INVALIDATE), "ok");
    // What is mapped beyond the end is never a part of the file.
    map.set(20_000 - 6, "ending");
    let beyond = get!(g, Map::shared(&fd, 20_480));
    beyond.set(20_000, "lost");
    see!(g, ftruncate(&fd, 20_010), "ok");
    see!(g, text_at(&fd, 19_994, 100), r"ending\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
    see!(g, beyond.text(20_000, 4), r"\x00\x00\x00\x00");
    g.part("dirty, cut and grown");
    map.set(0, &"dirty".repeat(4000));
    see!(g, ftruncate(&fd, 7), "ok");
    see!(g, ftruncate(&fd, 18_000), "ok");
    see!(g, text_at(&fd, 0, 10), r"dirtydi\x00\x00\x00");
    see!(g, map.text(0, 10), r"dirtydi\x00\x00\x00");
    see!(g, bytes_of(&fd).map(|bytes| digest(&bytes)));
    map.set(17_000, "still mapped");
    see!(g, unlink("f"), "ok");
    see!(g, text_at(&fd, 16_999, 14), r"\x00still mapped\x00");
    drop(fd);
    see!(g, map.text(17_000, 12), "still mapped");
    g.part("modes");
    see!(g, make("g", "g"), "ok");
    let reading = get!(g, open("g", RD));
    see!(g, Map::shared(&reading, 1), "EACCES");
    let writing = get!(g, open("g", WR));
    see!(g, Map::shared(&writing, 1), "EACCES");
    let dir = get!(g, open(".", RD | DIR));
    see!(g, Map::shared(&dir, 1).map(drop));
}

/// Beyond the end of a file a mapping has nothing.
fn cut_under_a_mapping(g: &mut Stage) {
    g.python(
        "
fd = os.open('f', os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 20000)
memory = mmap.mmap(fd, 20000)
memory[16000:16004] = b'here'
os.ftruncate(fd, 5000)
assert memory[4999] == 0
say('in the last page', memory[5001])
say('reading beyond', ended(child(lambda: memory[9000])))
def write():
    memory[9000] = 1
say('writing beyond', ended(child(write)))
os.ftruncate(fd, 20000)
say('there again', (memory[9000], memory[16000:16004]))
other = child(lambda: os.truncate('f', 0))
say('cut by another', ended(other))
say('reading all', ended(child(lambda: memory[0])))
assert ended(child(lambda: memory[0])) == -signal.SIGBUS
",
    );
}

fn truncated(g: &mut Stage) {
    see!(g, make("f", &"0123456789".repeat(5000)), "ok");
    let (one, two) = (get!(g, open("f", RDWR)), get!(g, open("f", RD)));
    for len in [49_999, 16_385, 16_384, 16_383, 4097, 4096, 1, 0] {
        g.part(format!("at {len}"));
        see!(g, put(&one, len + 20, "dirty"), "5");
        see!(g, ftruncate(&one, len), "ok");
        see!(g, stat("f").map(|stat| stat.st_size));
        see!(g, ftruncate(&one, 50_000), "ok");
        let bytes = bytes_of(&two);
        see!(g, bytes.as_ref().map(|bytes| digest(bytes)).map_err(|error| *error));
        see!(g, bytes.unwrap()[len as usize..].iter().all(|byte| *byte == 0), "true");
    }
    g.part("by open");
    see!(g, put(&one, 0, "new content"), "11");
    let third = get!(g, open("f", WR | TRUNC));
    see!(g, text_of(&two), "");
    see!(g, look_fd(&one), "file 0644 0:0 n1 s0");
    see!(g, put(&one, 3, "one"), "3");
    see!(g, put(&third, 0, "3"), "1");
    see!(g, text_of(&two), r"3\x00\x00one");
    see!(g, open("f", RD | TRUNC), "ok");
    see!(g, size("f"));
    g.part("errors");
    see!(g, truncate("f", -1), "EINVAL");
    see!(g, ftruncate(&two, 1), "EINVAL");
    see!(g, mkdir("d", 0o755), "ok");
    see!(g, truncate("d", 0), "EISDIR");
    see!(g, truncate("none", 0), "ENOENT");
    see!(g, truncate("f/x", 0), "ENOTDIR");
    see!(g, mknod("fifo", rustix::fs::FileType::Fifo, 0o644, 0), "ok");
    see!(g, truncate("fifo", 0), "EINVAL");
    see!(g, open("fifo", RD | TRUNC | OFlags::NONBLOCK), "ok");
    see!(g, truncate("f", 1 << 40), "ok");
    see!(g, size("f"), "1099511627776");
    see!(g, text_at(&two, (1 << 40) - 3, 5), r"\x00\x00\x00");
    see!(g, truncate("f", 0), "ok");
}

/// The same by a program's own O_DIRECT.
fn direct(g: &mut Stage) {
    see!(g, make("f", &"x".repeat(16_384)), "ok");
    let cached = get!(g, open("f", RDWR));
    let map = get!(g, Map::shared(&cached, 16_384));
    see!(g, map.text(0, 3), "xxx");
    let around = open("f", RDWR | OFlags::DIRECT);
    let around = get!(g, around);
    // Aligned as a mapping is.
    let room = get!(g, open("room", RDWR | CREATE));
    see!(g, ftruncate(&room, 8192), "ok");
    let buffer = get!(g, Map::shared(&room, 8192));
    map.set(0, "mapped");
    see!(g, buffer.read_from(&around, 4096), "4096");
    see!(g, buffer.text(0, 7), "mappedx");
    see!(g, put(&cached, 0, "cached"), "6");
    see!(g, buffer.read_from(&around, 4096), "4096");
    see!(g, buffer.text(0, 7), "cachedx");
    buffer.set(0, "direct");
    see!(g, buffer.write_to(&around, 4096), "4096");
    see!(g, text_at(&cached, 0, 7), "directx");
    see!(g, map.text(0, 7), "directx");
    see!(g, buffer.write_to(&around, 8192), "8192");
    see!(g, fsync(&around), "ok");
    see!(g, rustix::fs::fcntl_getfl(&around).map(|flags| flags.contains(OFlags::DIRECT)), "true");
}

/// What was mapped beyond the end comes to light when the file grows.
fn polluted() -> [Known; 2] {
    let why = "the kernel's FUSE does not zero the rest of a mapped page when a file grows";
    let zeros = r"ending\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let lost = r"endinglost\x00\x00\x00\x00\x00\x00";
    let read = known("text_at(&fd, 19_994, 100)", zeros, lost, why);
    let seen = known("beyond.text(20_000, 4)", r"\x00\x00\x00\x00", "lost", why);
    [read, seen]
}

#[test]
fn appended_lines_of_many_processes_are_all_there() {
    twins(appended, &[]);
}

#[test]
fn another_process_sees_each_change_at_once() {
    let why = "the kernel's FUSE has the time of a mapped write set when it writes it back";
    let mapped = |newer| match newer {
        true => "(61000, 61000, b'y mapping', True, True, True)",
        false => "(61000, 61000, b'y mapping', False, True, True)",
    };
    let other = |call, ext4| known(call, mapped(ext4), mapped(!ext4), why);
    twins(seen_at_once, &[other("mapped", true), other("flushed", false)]);
}

#[test]
fn mappings_and_descriptors_show_the_same_bytes() {
    twins(mapped, &polluted());
}

#[test]
fn a_mapping_ends_where_its_file_does() {
    twins(cut_under_a_mapping, &[]);
}

#[test]
fn what_was_cut_off_comes_back_as_zeros() {
    twins(truncated, &[]);
}

#[test]
fn direct_reads_and_writes_agree_with_cached_ones() {
    twins(direct, &[]);
}

#[test]
fn what_the_kernel_keeps_back_is_seen_at_once() {
    for scene in [appended, cut_under_a_mapping, truncated, direct] {
        twins_written_back(scene, &[]);
    }
    // It looks at times, too.
    twins_written_back_in_time(seen_at_once, &[]);
    twins_written_back(mapped, &polluted());
}
