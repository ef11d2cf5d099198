//! What is asked of the operating system for the whole process. The only folder where `unsafe` may
//! stand; so far the safe calls of `rustix` suffice.

mod protect;

pub use protect::{Protection, protect_process};
