//! Mounting and unmounting without being root, through the set-user-id helper `fusermount3`: it
//! opens `/dev/fuse`, mounts, and sends the descriptor through a socket (`_FUSE_COMMFD`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

/// Names and places of the helper, the first that is there is taken.
pub const HELPERS: [&str; 4] =
    ["fusermount3", "/bin/fusermount3", "/usr/bin/fusermount3", "fusermount"];

/// Why the helper did not do it.
#[derive(Debug)]
pub(in crate::fuse) enum HelperError {
    /// It is not installed.
    Absent,
    /// It said no; its own words.
    Refused(String),
    /// The system failed otherwise.
    System(io::Error),
}

impl From<io::Error> for HelperError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rustix::io::Errno> for HelperError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

fn run(set_up: impl Fn(&mut Command)) -> Result<Output, HelperError> {
    for name in HELPERS {
        let mut command = Command::new(name);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        set_up(&mut command);
        match command.spawn() {
            Ok(child) => return Ok(child.wait_with_output()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(HelperError::Absent)
}

fn said(output: &Output) -> HelperError {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().trim_start_matches("fusermount3: ").to_owned();
    HelperError::Refused(if text.is_empty() { output.status.to_string() } else { text })
}

/// The options' commas and backslashes are escaped for the helper's list.
pub(in crate::fuse) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// Mounts; gives the descriptor by which the mount is served.
pub(in crate::fuse) fn mount(path: &Path, options: &str) -> Result<OwnedFd, HelperError> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let output = {
        // Standard input is the one descriptor that a child is given without any unsafe code.
        let input = || theirs.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
        run(|command| {
            command.env("_FUSE_COMMFD", "0").stdin(input());
            command.args(["-o", options, "--"]).arg(path);
        })?
    };
    drop(theirs);
    if !output.status.success() {
        return Err(said(&output));
    }
    received(&ours)?.ok_or_else(|| said(&output))
}

fn received(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.find_map(|mut descriptors| descriptors.next()))
}

/// Unmounts.
pub(in crate::fuse) fn unmount(path: &Path, lazily: bool) -> Result<(), HelperError> {
    let path = PathBuf::from(path);
    let output = run(|command| {
        command.stdin(Stdio::null()).args(if lazily { &["-u", "-z"][..] } else { &["-u"] });
        command.arg("--").arg(&path);
    })?;
    if output.status.success() { Ok(()) } else { Err(said(&output)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_with_a_comma_stays_one_option() {
        assert_eq!(escaped("/a,b\\c"), "/a\\,b\\\\c");
    }
}
