//! The `cmkfs` command.

fn main() {}
