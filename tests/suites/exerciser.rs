//! Two files under random operations, every byte read compared with a model in memory. It does
//! what fsx does not: reads and writes past the kernel's cache, ranges zeroed and shifted, copies
//! from file to file, holes looked for, and unmounting in between.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Advice, FallocateFlags as Allocate, SeekFrom};
use rustix::io::Errno;

use crate::fsx;
use crate::mapped::{Mapped, PAGE};
use crate::model::{Content, Random};
use crate::mount::Mount;
use crate::{OPTION_SETS, tell};

/// Operations of a run, at most: a seed each.
const STEPS_PER_SEED: u64 = 20_000;
/// Bytes that one operation is about, at most.
const STEP_LEN_MAX: u64 = 64 << 10;
/// Lengths that the files do not exceed, in turn; for each the least is to have its ends met often.
const LENS_MAX: [u64; 3] = [20_480, 256 << 10, 3 << 20];
/// Offset, length and memory of what goes past the kernel's cache are multiples of it, as ext4
/// wants.
const SECTOR: u64 = 512;
/// Operations that a failure tells.
const TOLD_MAX: usize = 300;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    DirectRead,
    DirectWrite,
    MapRead,
    MapWrite,
    Truncate,
    Punch,
    Zero,
    Allocate,
    /// Collapse or insert a range.
    Shift,
    Copy,
    /// Look for data and holes.
    Seek,
    /// Drop the file from the kernel's cache.
    Forget,
    Sync,
    DataSync,
    /// Close and open again.
    Reopen,
    Remount,
}

/// An operation; what a number means, and whether it means anything, depends on the kind.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: Kind,
    file: usize,
    at: u64,
    len: u64,
    to: u64,
    choice: bool,
}

/// Which operations, and how often one for how many of the others.
pub(crate) struct Mix {
    pub(crate) name: &'static str,
    pub(crate) weights: &'static [(Kind, u64)],
}

struct Handles {
    buffered: File,
    direct: File,
}

/// A file, and what should be in it.
struct Side {
    path: PathBuf,
    handles: Option<Handles>,
    content: Content,
}

struct Exerciser<'a> {
    sides: [Side; 2],
    /// A mapping that was written to and not synced.
    held: Option<Mapped>,
    random: Random,
    len_max: u64,
    /// Unmounts and mounts again; no file is open then.
    remount: &'a dyn Fn(),
}

/// What was found instead of what was wanted.
type Checked = Result<(), String>;

fn same(what: &str, found: &[u8], wanted: &[u8], at: u64) -> Checked {
    if found == wanted {
        return Ok(());
    }
    if found.len() != wanted.len() {
        return Err(format!("{what} gave {:#x} bytes, wanted {:#x}", found.len(), wanted.len()));
    }
    let differs = |index: &usize| found[*index] != wanted[*index];
    let first = (0..found.len()).find(differs).expect("they differ");
    let last = (0..found.len()).rfind(differs).expect("they differ");
    let (place, end) = (at + first as u64, at + last as u64);
    let (byte, want) = (found[first], wanted[first]);
    Err(format!("{what}: {byte:#04x} at {place:#x}, wanted {want:#04x}; the last at {end:#x}"))
}

fn told(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn told_by(what: &str) -> impl Fn(Errno) -> String {
    move |error| format!("{what}: {error}")
}

/// Memory for `len` bytes and where in it the part starts that is aligned.
fn aligned(len: u64) -> (Vec<u8>, usize) {
    let memory = vec![0; usize::try_from(len + PAGE).unwrap()];
    let start = memory.as_ptr().align_offset(usize::try_from(PAGE).unwrap());
    (memory, start)
}

fn read_all(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64)? {
            0 => break,
            len => done += len,
        }
    }
    Ok(done)
}

impl Side {
    fn open(&mut self) -> Checked {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let buffered = options.open(&self.path).map_err(told("open"))?;
        let direct = options.custom_flags(libc::O_DIRECT).open(&self.path);
        self.handles = Some(Handles { buffered, direct: direct.map_err(told("open O_DIRECT"))? });
        self.whole()
    }

    fn file(&self) -> &File {
        &self.handles.as_ref().expect("open but while it is remounted").buffered
    }

    fn direct(&self) -> &File {
        &self.handles.as_ref().expect("open but while it is remounted").direct
    }

    fn size(&self) -> Checked {
        let (file, path) = (self.file().metadata(), std::fs::metadata(&self.path));
        for (what, found) in [("fstat", file), ("stat", path)] {
            let (found, wanted) = (found.map_err(told(what))?.len(), self.content.len());
            if found != wanted {
                return Err(format!("{what} gave length {found:#x}, wanted {wanted:#x}"));
            }
        }
        Ok(())
    }

    /// Compares all of it.
    fn whole(&self) -> Checked {
        self.size()?;
        self.read(0, self.content.len() + 1)
    }

    fn read(&self, at: u64, len: u64) -> Checked {
        let mut found = vec![0; usize::try_from(len).unwrap()];
        let done = read_all(self.file(), &mut found, at).map_err(told("read"))?;
        same("read", &found[..done], self.content.range(at, len), at)
    }

    fn read_directly(&self, at: u64, len: u64) -> Checked {
        let (mut memory, start) = aligned(len);
        let found = &mut memory[start..][..usize::try_from(len).unwrap()];
        let done = self.direct().read_at(found, at).map_err(told("read O_DIRECT"))?;
        same("read O_DIRECT", &found[..done], self.content.range(at, len), at)
    }

    fn write(&mut self, at: u64, data: &[u8]) -> Checked {
        self.content.write(at, data);
        self.file().write_all_at(data, at).map_err(told("write"))
    }

    fn write_directly(&mut self, at: u64, data: &[u8]) -> Checked {
        let (mut memory, start) = aligned(data.len() as u64);
        let aligned = &mut memory[start..][..data.len()];
        aligned.copy_from_slice(data);
        self.content.write(at, data);
        self.direct().write_all_at(aligned, at).map_err(told("write O_DIRECT"))
    }

    fn read_mapped(&self, at: u64, len: u64) -> Checked {
        let wanted = self.content.range(at, len);
        if wanted.is_empty() {
            return Ok(());
        }
        let mapped = Mapped::new(self.file(), at, wanted.len() as u64);
        let mut mapped = mapped.map_err(told("mmap"))?;
        same("mmap", mapped.range(), wanted, at)?;
        let end = at + wanted.len() as u64;
        let zeros = vec![0; mapped.after().len()];
        let past = if end == self.content.len() { &zeros[..] } else { return Ok(()) };
        same("mmap past the end", mapped.after(), past, end)
    }

    fn write_mapped(&mut self, at: u64, data: &[u8]) -> Result<Mapped, String> {
        if at + data.len() as u64 > self.content.len() {
            self.set_len(at + data.len() as u64)?;
        }
        let mapped = Mapped::new(self.file(), at, data.len() as u64);
        let mut mapped = mapped.map_err(told("mmap"))?;
        mapped.range().copy_from_slice(data);
        self.content.write(at, data);
        Ok(mapped)
    }

    fn set_len(&mut self, len: u64) -> Checked {
        self.content.set_len(len);
        self.file().set_len(len).map_err(told("ftruncate"))
    }

    fn fallocate(&self, flags: Allocate, at: u64, len: u64) -> Checked {
        rustix::fs::fallocate(self.file(), flags, at, len).map_err(told_by("fallocate"))
    }

    /// Shifts what is behind a place by whole pages, or hears that this can't be done.
    fn shift(&mut self, at: u64, len: u64, collapse: bool, len_max: u64) -> Checked {
        let (at, len) = (at - at % PAGE, len.next_multiple_of(PAGE));
        let size = self.content.len();
        let possible = if collapse { at + len < size } else { at < size && size + len <= len_max };
        if !possible {
            return Ok(());
        }
        let flags = if collapse { Allocate::COLLAPSE_RANGE } else { Allocate::INSERT_RANGE };
        match (rustix::fs::fallocate(self.file(), flags, at, len), collapse) {
            (Ok(()), true) => self.content.collapse(at, len),
            (Ok(()), false) => self.content.insert(at, len),
            (Err(Errno::OPNOTSUPP), _) => {}
            (Err(error), _) => return Err(format!("fallocate {flags:?}: {error}")),
        }
        self.whole()
    }

    /// A hole may be told as data, but data never as a hole.
    fn seek(&self, at: u64) -> Checked {
        let size = self.content.len();
        let data = match rustix::fs::seek(self.file(), SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => size,
            Err(error) => return Err(format!("SEEK_DATA: {error}")),
        };
        if data < at.min(size) || data > size {
            return Err(format!("SEEK_DATA gave {data:#x}"));
        }
        let skipped = self.content.range(at, data.saturating_sub(at));
        same("skipped by SEEK_DATA", &vec![0; skipped.len()], skipped, at)?;
        if at >= size {
            return Ok(());
        }
        let hole = rustix::fs::seek(self.file(), SeekFrom::Hole(at)).map_err(told_by("SEEK_HOLE"));
        match hole? {
            hole if hole < at || hole > size => Err(format!("SEEK_HOLE gave {hole:#x}")),
            hole => match self.content.range(hole, 1) {
                [] | [0] => Ok(()),
                found => same("found by SEEK_HOLE", &[0], found, hole),
            },
        }
    }

    fn forget(&self) -> Checked {
        let advice = Advice::DontNeed;
        rustix::fs::fadvise(self.file(), 0, None, advice).map_err(told_by("posix_fadvise"))
    }
}

impl Exerciser<'_> {
    fn step(&mut self, mix: &Mix) -> Step {
        let random = &mut self.random;
        let mut pick = random.below(mix.weights.iter().map(|(_, weight)| weight).sum());
        let chosen = mix.weights.iter().find(|(_, weight)| {
            let chosen = pick < *weight;
            pick = pick.saturating_sub(*weight);
            chosen
        });
        let (kind, file) = (chosen.expect("less than their sum").0, random.next() % 2 == 1);
        let at = random.below(self.len_max);
        let to = random.below(self.len_max);
        let len = (1 + random.below(STEP_LEN_MAX)).min(self.len_max - at);
        Step { kind, file: usize::from(file), at, len, to, choice: random.next() % 2 == 1 }
    }

    fn take(&mut self, step: Step) -> Checked {
        let Step { at, len, choice, .. } = step;
        let (sector_at, sectors_len) = (at - at % SECTOR, len.next_multiple_of(SECTOR));
        let side = &mut self.sides[step.file];
        match step.kind {
            Kind::Read => side.read(at, len),
            Kind::Write => side.write(at, &self.random.bytes(len)),
            Kind::DirectRead => side.read_directly(sector_at, sectors_len),
            Kind::DirectWrite => side.write_directly(sector_at, &self.random.bytes(sectors_len)),
            Kind::MapRead => side.read_mapped(at, len),
            Kind::MapWrite => {
                let mut mapped = side.write_mapped(at, &self.random.bytes(len))?;
                if choice {
                    mapped.sync().map_err(told("msync"))?
                } else {
                    self.held = Some(mapped)
                }
                Ok(())
            }
            Kind::Truncate => side.set_len(at),
            Kind::Punch => {
                side.content.zero(at, len, false);
                side.fallocate(Allocate::PUNCH_HOLE | Allocate::KEEP_SIZE, at, len)
            }
            Kind::Zero => {
                side.content.zero(at, len, choice);
                let keep = if choice { Allocate::empty() } else { Allocate::KEEP_SIZE };
                side.fallocate(Allocate::ZERO_RANGE | keep, at, len)
            }
            Kind::Allocate if choice => {
                side.content.allocate(at, len);
                side.fallocate(Allocate::empty(), at, len)
            }
            Kind::Allocate => side.fallocate(Allocate::KEEP_SIZE, at, len),
            Kind::Shift => side.shift(at, len, choice, self.len_max),
            Kind::Copy => self.copy(step),
            Kind::Seek => {
                // What is only in a mapping yet, the kernel does not look at (`tests/posix.md`).
                if let Some(held) = &mut self.held {
                    held.sync().map_err(told("msync"))?;
                }
                side.seek(at)
            }
            Kind::Forget => side.forget(),
            Kind::Sync => side.file().sync_all().map_err(told("fsync")),
            Kind::DataSync => side.file().sync_data().map_err(told("fdatasync")),
            Kind::Reopen => {
                (self.held, side.handles) = (None, None);
                side.open()
            }
            Kind::Remount => {
                self.held = None;
                self.sides.iter_mut().for_each(|side| side.handles = None);
                (self.remount)();
                self.sides.iter_mut().try_for_each(Side::open)
            }
        }
    }

    /// Copies within a file or to the other one; within one the ranges do not overlap.
    fn copy(&mut self, step: Step) -> Checked {
        let (source, target) = (step.file, if step.choice { step.file } else { 1 - step.file });
        let here = self.sides[source].content.range(step.at, step.len).to_vec();
        let mut len = (here.len() as u64).min(self.len_max - step.to);
        if source == target {
            len = len.min(step.at.abs_diff(step.to));
        }
        let (from, to) = (self.sides[source].file(), self.sides[target].file());
        let (mut from_at, mut to_at) = (step.at, step.to);
        let end = step.at + len;
        while from_at < end {
            let left = usize::try_from(end - from_at).unwrap();
            let copied =
                rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), left);
            if copied.map_err(told_by("copy_file_range"))? == 0 {
                return Err(format!("copy_file_range ended {left:#x} bytes early"));
            }
        }
        if len > 0 {
            self.sides[target].content.write(step.to, &here[..usize::try_from(len).unwrap()]);
        }
        Ok(())
    }

    /// Does `steps` of them, and then compares all that there is, also after a remount.
    fn run(&mut self, mix: &Mix, steps: u64, log: &mut VecDeque<(u64, Step)>) -> Checked {
        self.sides.iter_mut().try_for_each(Side::open)?;
        for number in 0..steps {
            let step = self.step(mix);
            if log.len() == TOLD_MAX {
                log.pop_front();
            }
            log.push_back((number, step));
            self.take(step)?;
            self.sides.iter().try_for_each(Side::size)?;
        }
        self.held = None;
        self.sides.iter().try_for_each(Side::whole)?;
        let last = Step { kind: Kind::Remount, file: 0, at: 0, len: 0, to: 0, choice: false };
        log.push_back((steps, last));
        self.take(last)
    }
}

/// Runs one seed in a directory.
pub(crate) fn run_seed(dir: &Path, mix: &Mix, seed: u64, steps: u64, remount: &dyn Fn()) {
    let side = |name: &str| {
        let path = dir.join(name);
        Side { path, handles: None, content: Content::default() }
    };
    let len_max = LENS_MAX[usize::try_from(seed).unwrap() % LENS_MAX.len()];
    let (sides, random) = ([side("one"), side("other")], Random::new(seed));
    let mut log = VecDeque::new();
    let mut exerciser = Exerciser { sides, held: None, random, len_max, remount };
    if let Err(error) = exerciser.run(mix, steps, &mut log) {
        for (number, step) in &log {
            eprintln!("{number:6} {step:x?}");
        }
        panic!("{}: seed {seed}, after the operations above: {error}", mix.name);
    }
    for side in &exerciser.sides {
        std::fs::remove_file(&side.path).unwrap();
    }
}

/// Runs seed after seed on a mount until all operations are done.
pub(crate) fn run(mix: &Mix) {
    let (steps, first_seed) = fsx::extent();
    let mounts: Vec<Mount> = OPTION_SETS.iter().map(|options| Mount::new(options)).collect();
    let began = Instant::now();
    let mut left = steps;
    let mut seed = first_seed;
    while left > 0 {
        let turn = usize::try_from(seed - first_seed).unwrap() % mounts.len();
        let (mount, options) = (&mounts[turn], OPTION_SETS[turn]);
        eprintln!("{}: seed {seed}, mounted with {options:?}", mix.name);
        let now = left.min(STEPS_PER_SEED);
        run_seed(&mount.point(), mix, seed, now, &|| mount.remount());
        left -= now;
        seed += 1;
    }
    let (seeds, seconds) = (seed - first_seed, began.elapsed().as_secs());
    tell(&format!("exerciser {}: {steps} operations, {seeds} seeds, {seconds} s", mix.name));
}
