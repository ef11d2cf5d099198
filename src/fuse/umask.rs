//! The file mode creation mask of the caller is applied by the lower filesystem, which alone
//! knows whether a default access control list takes its place (umask(2)). Linux keeps the mask
//! per thread that asks for one of its own, so those that serve the kernel do.

use rustix::fs::Mode;
use rustix::thread::UnshareFlags;

thread_local! {
    static OWN: bool = own_mask();
}

/// Gives the thread a mask, root and working directory of its own; whether it could.
#[expect(deprecated, reason = "the unsafe one in its place is so for FILES, not asked for here")]
fn own_mask() -> bool {
    rustix::thread::unshare(UnshareFlags::FS).is_ok()
}

/// Called once by the thread that starts the others. Where threads can't have masks of their own,
/// the whole process gives up its mask, so that [`applied`] alone decides.
pub(in crate::fuse) fn prepare() {
    if !OWN.with(|own| *own) {
        rustix::process::umask(Mode::empty());
        tracing::warn!("unshare(2) is not allowed here: the umask of this process is now 0");
    }
}

/// The mode to make something with, for a caller with this mask, on this thread and now.
pub(in crate::fuse) fn applied(mode: u32, mask: u32) -> u32 {
    if OWN.with(|own| *own) {
        rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
        mode
    } else {
        mode & !mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_of_one_thread() {
        let before = rustix::process::umask(Mode::from_raw_mode(0o022));
        std::thread::spawn(|| {
            assert_eq!(applied(0o666, 0o077), 0o666);
            assert_eq!(rustix::process::umask(Mode::empty()).as_raw_mode(), 0o077);
        })
        .join()
        .unwrap();
        assert_eq!(rustix::process::umask(before).as_raw_mode(), 0o022);
    }
}
