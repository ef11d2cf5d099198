//! Where the suites' programs are.

use std::path::{Path, PathBuf};

/// The program `name`: what `variable` names, or what `tests/all.sh` installed, or the one in
/// `PATH`.
pub(crate) fn find(variable: &str, name: &str) -> PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "{variable} names {}, which is no program", named.display());
        return named;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let installed = target.join("test-tools/suites/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(installed.clone()).chain(std::env::split_paths(&path));
    let found = dirs.map(|dir| dir.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no {name}: not named by {variable}, not in {}, not in PATH; tests/all.sh installs \
             it, or set {variable} to the program",
            installed.display()
        )
    })
}
