//! cmkfs keeps files encrypted at rest under keys that your own KMS key wraps.

pub mod cipher;
pub mod file;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod keys;
pub mod store;
pub mod sys;
