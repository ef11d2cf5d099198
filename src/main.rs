//! The `cmkfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    cmkfs::cli::main()
}
