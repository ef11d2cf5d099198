//! What the fuzz targets and `tests/fuzzed.rs` run: one function a kind of stored bytes, which
//! takes any bytes and panics if a decoder breaks its word. Each of them holds decoders to this:
//!
//! - Whatever the bytes, there is no panic and no overflow.
//! - What is accepted encodes to the same bytes again, and keeps the documented bounds.
//! - What opens under the key of the golden volume is what that volume sealed.
//! - What is sealed opens, and does not after an edit, in another place or under another key.

#![allow(dead_code, unreachable_pub, reason = "each user takes a part of this")]

mod descriptor;
mod edit;
pub mod golden;
mod header;
mod journal;
mod manifest;
mod name;
mod node;
mod sessions;

pub use descriptor::descriptor;
pub use header::header;
pub use journal::journal;
pub use manifest::manifest;
pub use name::name;
pub use node::node;
pub use sessions::sessions;

/// A function that takes any bytes.
pub type Run = fn(&[u8]);

/// Each target: its name is that of its file in `fuzz_targets` and of its folder in `seeds`.
pub const ENTRIES: &[(&str, Run)] = &[
    ("descriptor", descriptor),
    ("header", header),
    ("journal", journal),
    ("manifest", manifest),
    ("name", name),
    ("node", node),
    ("sessions", sessions),
];
