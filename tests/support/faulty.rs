//! A disk that fails: one call, or all of one kind from some call on. The call is not made then.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::mem::{Discriminant, discriminant};
use std::sync::{Arc, Mutex};

use cmkfs::store::{Op, Watch};
use rustix::io::Errno;

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The one of that number.
    Once,
    /// That one, and all later ones of its kind.
    Lasting,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that were counted.
    calls: usize,
    armed: Option<(usize, Errno, Extent)>,
    kind: Option<Discriminant<Op<'static>>>,
    /// What was refused, as text, in order.
    refused: Vec<String>,
    sync_refused: bool,
    asleep: bool,
}

/// The double. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Faulty(Arc<Mutex<State>>);

impl Faulty {
    /// Call number `at`, counted from 0, will fail.
    pub fn arm(&self, at: usize, errno: Errno, extent: Extent) {
        self.0.lock().unwrap().armed = Some((at, errno, extent));
    }

    /// Nothing fails any more.
    pub fn disarm(&self) {
        self.0.lock().unwrap().armed = None;
    }

    /// Does something that is neither counted nor fails.
    pub fn aside<T>(&self, run: impl FnOnce() -> T) -> T {
        self.0.lock().unwrap().asleep = true;
        let done = run();
        self.0.lock().unwrap().asleep = false;
        done
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.0.lock().unwrap().calls
    }

    /// What was refused.
    pub fn refused(&self) -> Vec<String> {
        self.0.lock().unwrap().refused.clone()
    }

    /// Whether the last refused call was to make a file durable.
    pub fn refused_a_sync(&self) -> bool {
        self.0.lock().unwrap().sync_refused
    }

    fn refuses(&self, op: &Op<'_>) -> Option<Errno> {
        let mut state = self.0.lock().unwrap();
        if state.asleep {
            return None;
        }
        let number = state.calls;
        state.calls += 1;
        let (at, errno, extent) = state.armed?;
        let kind = kind(op);
        let hit =
            number == at || (number > at && extent == Extent::Lasting && state.kind == Some(kind));
        if !hit {
            return None;
        }
        state.kind = Some(kind);
        let text = format!("{op:?}");
        state.refused.push(format!("call {number}: {:.90}", text));
        state.sync_refused = matches!(op, Op::SyncFile { .. });
        Some(errno)
    }
}

fn kind(op: &Op<'_>) -> Discriminant<Op<'static>> {
    // The kind alone; what it borrows is put aside.
    let fixed: Op<'static> = match *op {
        Op::Read { file, offset, len } => Op::Read { file, offset, len },
        Op::Write { file, offset, .. } => Op::Write { file, offset, bytes: &[] },
        Op::SetLen { file, len } => Op::SetLen { file, len },
        Op::Reserve { file, offset, len } => Op::Reserve { file, offset, len },
        Op::Punch { file, offset, len } => Op::Punch { file, offset, len },
        Op::SyncFile { file, data_only } => Op::SyncFile { file, data_only },
        Op::SyncDir { dir } => Op::SyncDir { dir },
        Op::SyncDisk => Op::SyncDisk,
        // All that makes or changes names, attributes or links: one kind.
        _ => Op::Unlink { dir: 0, name: &[] },
    };
    discriminant(&fixed)
}

impl Watch for Faulty {
    fn around(
        &self,
        op: &Op<'_>,
        run: &mut dyn FnMut() -> Result<Option<u64>, Errno>,
    ) -> Result<(), Errno> {
        match self.refuses(op) {
            Some(errno) => Err(errno),
            None => run().map(drop),
        }
    }
}
