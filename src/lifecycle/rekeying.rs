//! A request over the control socket to bring files under the current epoch: what the daemon does
//! for it, and what the client hears. It lasts as long as its connection, and no longer than the
//! volume is there.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use crate::file::{Rekey, Rekeyed};
use crate::lifecycle::control::{Response, closed, write_line};
use crate::lifecycle::error::VerbError;
use crate::lifecycle::report::Shared;
use crate::limits::{CHECK_PROGRESS, CONTROL_WAIT};

/// Does it, and tells the client how far it is. Returns the last answer.
pub(in crate::lifecycle) fn rekey(
    writer: &mut UnixStream,
    shared: &Shared,
    how: &Rekey,
) -> io::Result<Response> {
    let Some(volume) = shared.volume() else { return Ok(closed(shared)) };
    // Who does not listen any more must not hold up a lock, which waits for this.
    writer.set_write_timeout(Some(CONTROL_WAIT))?;
    let (mut told, mut heard) = (Instant::now(), Ok(()));
    let mut go_on = |done: &Rekeyed| {
        let is_there = || shared.volume().is_some_and(|now| Arc::ptr_eq(&now, &volume));
        if told.elapsed() >= CHECK_PROGRESS {
            told = Instant::now();
            heard = write_line(writer, &Response::Rekeying { done: *done });
        }
        heard.is_ok() && is_there()
    };
    let done = volume.rekey(how, &mut go_on);
    // Not while this has it: the end of a session and a lock wait until nobody does.
    drop(volume);
    heard?;
    Ok(match done {
        Ok(done) if done.finished || shared.volume().is_some() => Response::Rekeyed { done },
        Ok(_) => closed(shared),
        Err(error) => Response::failed(&VerbError::rekey(shared.store(), error)),
    })
}
