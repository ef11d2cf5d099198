//! What is asked of the operating system for the whole process, and the only folder where `unsafe`
//! may stand.

mod inherited;
mod memory;
mod protect;
mod scrub;
mod zeros;

pub use inherited::{is_inherited, note_inherited, take_inherited};
pub use memory::{give_back_memory, keep_one_heap};
pub use protect::{Protection, protect_process};
pub use scrub::{scrub_stack, scrubbing};
pub(crate) use zeros::Zeros;
