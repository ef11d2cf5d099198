//! What is left in the memory of a daemon whose volume is locked: no key, and no content.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use cmkfs::cipher::{Secret, unwrap_secret};
use cmkfs::format::{Descriptor, header};
use data_encoding::BASE64;

use crate::Lab;
use crate::lock::{is_refused, until};
use crate::support::memory::times_in_memory;
use crate::support::proxy::Fault;

/// Stands in each line of what is written by that name.
fn mark(name: &str) -> Vec<u8> {
    format!("<plaintext of {name:>8} 0123456789>").into_bytes()
}

/// Lines of 64 bytes, no two the same.
fn content(name: &str, len: usize) -> Vec<u8> {
    let mark = String::from_utf8(mark(name)).unwrap();
    let lines =
        (0..len / 64).map(|line| format!("{mark}{line:>width$}\n", width = 63 - mark.len()));
    let all: Vec<u8> = lines.flat_map(String::into_bytes).collect();
    assert_eq!(all.len(), len);
    all
}

/// The volume key, and all that come of it: see FORMAT.md.
fn keys(lab: &Lab) -> Vec<(String, [u8; 32])> {
    let call = lab.proxy.calls().into_iter().rfind(|call| call.operation == "Decrypt").unwrap();
    let text = call.output["Plaintext"].as_str().unwrap();
    let volume = Secret::take(&mut BASE64.decode(text.as_bytes()).unwrap()).unwrap();
    let text = fs::read(lab.store().join("volume.json")).unwrap();
    let descriptor: Descriptor = serde_json::from_slice(&text).unwrap();
    let wrapped = &descriptor.epochs[0];
    let context = [&descriptor.volume_id.0[..], &wrapped.epoch.0.to_le_bytes()].concat();
    let bytes = BASE64.decode(wrapped.wrapped.as_bytes()).unwrap();
    let epochs = volume.derive("cmkfs v1 epoch keys");
    let epoch = unwrap_secret(&epochs, &context, &bytes).unwrap();
    let files = epoch.derive("cmkfs v1 file keys");
    let mut all = vec![];
    let mut add = |name: &str, key: &Secret| all.push((name.to_owned(), *key.expose()));
    add("volume", &volume);
    add("epoch keys", &epochs);
    add("epoch", &epoch);
    for label in ["file keys", "names", "links", "attributes", "journal"] {
        add(label, &epoch.derive(&format!("cmkfs v1 {label}")));
    }
    for path in stored_files(&lab.store().join("tree")) {
        let Ok((prefix, _)) = header::decode(&fs::read(&path).unwrap()) else { continue };
        let context = [&context[..], &prefix.file_id.0].concat();
        let key = unwrap_secret(&files, &context, &prefix.wrapped_key).unwrap();
        add(&format!("file {}", path.display()), &key);
    }
    all
}

fn stored_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| entry.path()).collect()
}

/// Writes by all threads that serve the mount, large requests first and small ones after, so that
/// each leaves what the next does not cover. Returns a file that stays open.
fn write(lab: &Lab) -> File {
    let point = lab.point();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let point = &point;
            scope.spawn(move || {
                let file = File::create_new(point.join(format!("written-{n}"))).unwrap();
                for len in [1 << 20, 1 << 20, 300 << 10, 64 << 10, 4096, 64] {
                    file.write_all_at(&content("written", len), 0).unwrap();
                }
            });
        }
    });
    // Of one block, and not committed.
    let mut open = File::create_new(point.join("open")).unwrap();
    open.write_all(&content("open", 6400)).unwrap();
    let value = content("value", 64 << 5);
    rustix::fs::setxattr(point.join("open"), "user.a", &value, rustix::fs::XattrFlags::empty())
        .unwrap();
    symlink(String::from_utf8(mark("target")).unwrap(), point.join("link")).unwrap();
    open
}

#[test]
fn a_locked_daemon_has_no_key_and_no_content_in_memory() {
    let lab = Lab::new();
    let arn = lab.init(&[]);
    assert!(lab.mount().status.success());
    let point = lab.point();
    fs::write(point.join("read"), content("read", 3 << 20)).unwrap();
    fs::write(point.join("small"), content("small", 640)).unwrap();
    lab.umount();
    // What is read now comes from the store.
    lab.mount_watching(&["--key-recheck", "1s"]);
    let open = write(&lab);
    assert!(fs::read(point.join("read")).unwrap() == content("read", 3 << 20));
    assert!(fs::read(point.join("small")).unwrap() == content("small", 640));

    let keys = keys(&lab);
    assert!(keys.iter().filter(|(name, _)| name.starts_with("file /")).count() >= 6, "{keys:?}");
    let pid = u32::try_from(lab.daemon()["pid"].as_u64().unwrap()).unwrap();
    assert!(times_in_memory(pid, &keys[6].1) > 0, "the search finds no key");
    assert!(times_in_memory(pid, &mark("read")) > 0, "the search finds no plaintext");
    lab.proxy.fault("Decrypt", Fault::error("DisabledException", &format!("{arn} is disabled.")));
    until("locked", || is_refused(&point.join("read")));
    until("told", || lab.daemon()["key_state"] == "locked");
    let plaintext = ["written", "open", "read", "small", "value", "target"];
    let plaintext = plaintext.map(|name| (name.to_owned(), mark(name)));
    let keys = keys.into_iter().map(|(name, key)| (name, key.to_vec()));
    let found = keys.chain(plaintext).map(|(name, bytes)| (times_in_memory(pid, &bytes), name));
    let found: Vec<_> = found.filter(|(times, _)| *times > 0).collect();
    assert!(found.is_empty(), "{found:?}");
    drop(open);
    lab.umount();
}
