//! Set-id and sticky bits, umask, groups: what a mode means and what clears its bits.

use rustix::fs::{FallocateFlags, FileType, fallocate, fchmod, ftruncate, link, rename, symlink};
use rustix::fs::{rmdir, unlink};

use crate::calls::*;
use crate::stage::{Known, Stage, known, twins, twins_written_back};

const STICKY: u32 = 0o1777;

/// In a directory as /tmp is, each may remove and rename what is his.
fn sticky(g: &mut Stage) {
    see!(g, mkdir("tmp", 0o777), "ok");
    see!(g, chmod("tmp", STICKY), "ok");
    see!(g, as_user(ANN, &[], || make("tmp/anns", "ann")), "ok");
    see!(g, as_user(ANN, &[], || mkdir("tmp/annsdir", 0o777)), "ok");
    see!(g, as_user(ANN, &[], || chmod("tmp/annsdir", 0o777)), "ok");
    see!(g, as_user(BOB, &[], || make("tmp/bobs", "bob")), "ok");
    see!(g, as_user(BOB, &[], || unlink("tmp/anns")), "EPERM");
    see!(g, as_user(BOB, &[], || rename("tmp/anns", "tmp/x")), "EPERM");
    see!(g, as_user(BOB, &[], || rename("tmp/bobs", "tmp/anns")), "EPERM");
    see!(g, as_user(BOB, &[], || rmdir("tmp/annsdir")), "EPERM");
    see!(g, as_user(BOB, &[], || make("tmp/annsdir/inside", "bob")), "ok");
    see!(g, as_user(ANN, &[], || unlink("tmp/annsdir/inside")), "ok");
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    see!(g, as_user(BOB, &[], || rename_how("tmp/anns", "tmp/bobs", exchange)), "EPERM");
    see!(g, as_user(BOB, &[], || cat("tmp/anns")), "ann");
    see!(g, as_user(BOB, &[], || open("tmp/anns", WR)), "EACCES");
    see!(g, as_user(BOB, &[], || link("tmp/anns", "tmp/linked")));
    see!(g, as_user(BOB, &[], || rename("tmp/bobs", "tmp/bobs2")), "ok");
    see!(g, as_user(BOB, &[], || unlink("tmp/bobs2")), "ok");
    see!(g, chown("tmp", BOB), "ok");
    see!(g, as_user(BOB, &[], || rename("tmp/anns", "tmp/taken")), "ok");
    see!(g, as_user(ANN, &[], || rename("tmp/taken", "tmp/back")), "ok");
    see!(g, as_user(ANN, &[], || chmod("tmp", 0o777)), "EPERM");
    see!(g, look("tmp"), "dir 1777 1002:1002 n3 s0");
    see!(g, unlink("tmp/back"), "ok");
    g.part("without the bit");
    see!(g, chmod("tmp", 0o777), "ok");
    see!(g, as_user(ANN, &[], || make("tmp/anns", "ann")), "ok");
    see!(g, as_user(1003, &[], || unlink("tmp/anns")), "ok");
    g.part("who may set it");
    see!(g, as_user(ANN, &[], || make("tmp/f", "f")), "ok");
    see!(g, as_user(ANN, &[], || chmod("tmp/f", 0o1644)), "ok");
    see!(g, look("tmp/f"));
}

/// A directory with the bit gives its group to what is made in it.
fn inherited(g: &mut Stage) {
    see!(g, mkdir("d", 0o777), "ok");
    see!(g, chown_both("d", Some(ANN), Some(500)), "ok");
    see!(g, chmod("d", 0o2777), "ok");
    for (who, groups) in [(0, vec![]), (ANN, vec![]), (BOB, vec![500]), (BOB, vec![])] {
        g.part(format!("{who} of {groups:?}"));
        let make_all = || {
            make("d/f", "x").unwrap();
            drop(open_mode("d/sgid", WR | CREATE, 0o2777));
            drop(open_mode("d/sgidonly", WR | CREATE, 0o2666));
            mkdir("d/sub", 0o755).unwrap();
            mkdir("d/sub/sub", 0o755).unwrap();
            symlink("x", "d/link").unwrap();
            mknod("d/fifo", FileType::Fifo, 0o2755, 0).unwrap();
            mknod("d/node", FileType::RegularFile, 0o6755, 0).unwrap();
        };
        as_user(who, &groups, make_all);
        for name in ["f", "sgid", "sgidonly", "sub", "sub/sub", "link", "fifo", "node"] {
            see!(g, (name, look(&format!("d/{name}"))));
        }
        see!(g, as_user(who, &groups, || chmod("d/f", 0o2755)), "ok");
        see!(g, bits("d/f"));
        see!(g, as_user(who, &groups, || chmod("d/sub", 0o2755)), "ok");
        see!(g, bits("d/sub"));
        std::fs::remove_dir_all("d/sub").unwrap();
        for name in ["f", "sgid", "sgidonly", "link", "fifo", "node"] {
            unlink(format!("d/{name}")).unwrap();
        }
    }
    g.part("moved in");
    see!(g, make("outside", "x"), "ok");
    see!(g, rename("outside", "d/inside"), "ok");
    see!(g, look("d/inside"), "file 0644 0:0 n1 s1");
    see!(g, rustix::fs::chown("d", None, owner(0).1), "ok");
    see!(g, look("d"));
}

type Change = fn() -> rustix::io::Result<()>;

const CHANGES: [(&str, Change); 11] = [
    ("written", || put(&open("f", WR)?, 0, "x").map(drop)),
    ("written nothing", || put(&open("f", WR)?, 0, "").map(drop)),
    ("cut", || ftruncate(open("f", WR)?, 3)),
    ("cut by path", || truncate("f", 3)),
    ("cut to the same", || truncate("f", 10)),
    ("cut by open", || open("f", WR | TRUNC).map(drop)),
    ("allocated", || fallocate(open("f", WR)?, FallocateFlags::empty(), 0, 50_000)),
    ("punched", || {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(open("f", WR)?, flags, 0, 5)
    }),
    ("copied to", || {
        let (from, to) = (open("source", RD)?, open("f", WR)?);
        rustix::fs::copy_file_range(from, None, to, None, 5).map(drop)
    }),
    ("appended", || write(&open("f", WR | APPEND)?, "x").map(drop)),
    ("mapped", || {
        let fd = open("f", RDWR)?;
        let map = Map::shared(&fd, 10)?;
        map.set(0, "m");
        map.sync(libc::MS_SYNC)
    }),
];

/// Which bits each change of the content clears, by whom and for which modes.
fn cleared_by_content(g: &mut Stage) {
    see!(g, make("source", "0123456789"), "ok");
    for bits_before in [0o6777, 0o6766, 0o4777, 0o2777, 0o2767, 0o7777, 0o777] {
        for (how, change) in CHANGES {
            for (who, groups) in [(0, vec![]), (ANN, vec![]), (BOB, vec![]), (BOB, vec![ANN])] {
                g.part(format!("{bits_before:04o} {how} by {who} of {groups:?}"));
                make("f", "0123456789").unwrap();
                chown("f", ANN).unwrap();
                chmod("f", bits_before).unwrap();
                see!(g, as_user(who, &groups, change));
                see!(g, bits("f"));
                unlink("f").unwrap();
            }
        }
    }
    g.part("twice through one descriptor");
    make("f", "0123456789").unwrap();
    chown("f", ANN).unwrap();
    chmod("f", 0o4777).unwrap();
    let fd = as_user(ANN, &[], || open("f", RDWR).unwrap());
    see!(g, as_user(ANN, &[], || put(&fd, 0, "x")), "1");
    see!(g, bits("f"), "0777");
    see!(g, fchmod(&fd, mode(0o6755)), "ok");
    see!(g, as_user(ANN, &[], || put(&fd, 0, "x")), "1");
    see!(g, bits("f"), "0755");
}

fn cleared_by_owner(g: &mut Stage) {
    for kind in ["file", "dir", "fifo"] {
        for bits_before in [0o6777, 0o6766, 0o4711, 0o2710, 0o2700, 0o7777] {
            g.part(format!("{kind} {bits_before:04o}"));
            let prepare = || {
                match kind {
                    "file" => make("f", "x").unwrap(),
                    "dir" => mkdir("f", 0o755).unwrap(),
                    _ => mknod("f", FileType::Fifo, 0o755, 0).unwrap(),
                }
                chown("f", ANN).unwrap();
                chmod("f", bits_before).unwrap();
            };
            let groups = [500];
            for (uid, gid) in
                [(None, Some(500)), (Some(ANN), None), (None, None), (Some(BOB), None)]
            {
                for who in [0, ANN] {
                    prepare();
                    see!(g, (who, uid, gid));
                    see!(g, as_user(who, &groups, || chown_both("f", uid, gid)));
                    see!(g, look("f"));
                    whatever(unlink("f"));
                    whatever(rmdir("f"));
                }
            }
        }
    }
    g.part("the mode set by its owner");
    see!(g, make("f", "x"), "ok");
    see!(g, chown_both("f", Some(ANN), Some(500)), "ok");
    see!(g, as_user(ANN, &[], || chmod("f", 0o6755)), "ok");
    see!(g, bits("f"), "4755");
    see!(g, as_user(ANN, &[500], || chmod("f", 0o6755)), "ok");
    see!(g, bits("f"), "6755");
    see!(g, as_user(BOB, &[500], || chmod("f", 0o777)), "EPERM");
    see!(g, as_user(ANN, &[], || chown_both("f", None, Some(500))));
    see!(g, as_user(ANN, &[], || chown_both("f", None, Some(501))), "EPERM");
    see!(g, as_user(ANN, &[], || chown_both("f", Some(BOB), None)), "EPERM");
    see!(g, as_user(ANN, &[501], || chown_both("f", None, Some(501))), "ok");
    see!(g, look("f"));
    see!(g, symlink("f", "link"), "ok");
    see!(g, chown("link", BOB), "ok");
    see!(g, look("link"), "link 0777 1002:1002 n1 s1");
    see!(g, look("f"));
}

fn masks(g: &mut Stage) {
    for mask in [0o000, 0o022, 0o077, 0o777, 0o027] {
        g.part(format!("{mask:03o}"));
        umask(mask);
        see!(g, open_mode("f", WR | CREATE, 0o7777), "ok");
        see!(g, mkdir("d", 0o7777), "ok");
        see!(g, mknod("fifo", FileType::Fifo, 0o7777, 0), "ok");
        see!(g, mknod("node", FileType::RegularFile, 0o6777, 0), "ok");
        see!(g, mknod("socket", FileType::Socket, 0o777, 0), "ok");
        see!(g, symlink("x", "link"), "ok");
        for name in ["f", "d", "fifo", "node", "socket", "link"] {
            see!(g, (name, look(name)));
        }
        see!(g, chmod("f", 0o7777), "ok");
        see!(g, bits("f"), "7777");
        rmdir("d").unwrap();
        for name in ["f", "fifo", "node", "socket", "link"] {
            unlink(name).unwrap();
        }
    }
    umask(0o022);
    g.part("an open file of no mode at all");
    let fd = get!(g, open_mode("f", RDWR | CREATE, 0));
    see!(g, put(&fd, 0, "content"), "7");
    see!(g, text_of(&fd), "content");
    see!(g, as_user(ANN, &[], || cat("f")), "EACCES");
    see!(g, mkdir("d", 0o777), "ok");
    see!(g, chmod("d", 0o777), "ok");
    let mut fd = None;
    see!(g, as_user(ANN, &[], || open_mode("d/f", RDWR | CREATE, 0).map(|made| fd = Some(made))));
    let fd = fd.unwrap();
    see!(g, as_user(ANN, &[], || put(&fd, 0, "still")), "5");
    see!(g, as_user(ANN, &[], || text_of(&fd)), "still");
    see!(g, as_user(ANN, &[], || open("d/f", RD)), "EACCES");
    see!(g, as_user(ANN, &[], || ftruncate(&fd, 2)), "ok");
    see!(g, as_user(ANN, &[], || chmod("d/f", 0o444)), "ok");
    see!(g, as_user(ANN, &[], || cat("d/f")), "st");
    see!(g, as_user(ANN, &[], || open("d/f", RDWR)), "EACCES");
    see!(g, as_user(ANN, &[], || open("d/f", RD | TRUNC)), "EACCES");
    see!(g, put(&fd, 2, "ill"), "3");
}

/// The group's bit where the group may not execute goes with what a stranger writes.
fn strangers() -> Vec<Known> {
    // All that changes something; what is mapped is written by the kernel.
    let changing = CHANGES.iter().map(|change| change.0);
    let changing = changing.filter(|how| !["written nothing", "mapped"].contains(how));
    let before = [("6766", "0766", "2766"), ("2767", "0767", "2767")];
    let why = "the kernel's FUSE does not tell whether who writes is in the file's group";
    let all = changing.flat_map(|how| {
        before.map(|(bits, ext4, cmkfs)| {
            known(format!("{bits} {how} by 1002 of []: bits(\"f\")"), ext4, cmkfs, why)
        })
    });
    all.collect()
}

#[test]
fn in_a_sticky_directory_each_removes_only_what_is_his() {
    twins(sticky, &[]);
}

#[test]
fn a_set_group_id_directory_gives_its_group() {
    twins(inherited, &[]);
}

#[test]
fn changes_of_content_clear_set_id_bits_as_on_ext4() {
    twins(cleared_by_content, &strangers());
}

#[test]
fn changes_of_owner_and_mode_clear_set_id_bits_as_on_ext4() {
    twins(cleared_by_owner, &[]);
}

#[test]
fn modes_of_new_files_are_masked_as_on_ext4() {
    twins(masks, &[]);
}

#[test]
fn what_the_kernel_keeps_back_clears_bits_too() {
    twins_written_back(cleared_by_content, &strangers());
}
