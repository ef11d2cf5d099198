//! Two ordinary users and root on one mount at once.

use std::sync::Barrier;
use std::thread;

use rustix::fs::{
    Access, AtFlags, CWD, OFlags, accessat, link, mkdirat, rename, rmdir, symlink, unlink,
};

use crate::calls::*;
use crate::stage::{Stage, twins, twins_written_back};

fn may(path: &str) -> String {
    let all = [("r", Access::READ_OK), ("w", Access::WRITE_OK), ("x", Access::EXEC_OK)];
    let allowed = |access| accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    all.iter().map(|(letter, access)| if allowed(*access) { *letter } else { "-" }).collect()
}

fn new_files(g: &mut Stage) {
    see!(g, mkdir("d", 0o777), "ok");
    see!(g, chmod("d", 0o777), "ok");
    for who in [0, ANN, BOB, 65_534] {
        g.part(format!("{who}"));
        let make_all = || {
            make(&format!("d/f{who}"), "x").unwrap();
            mkdir(&format!("d/d{who}"), 0o755).unwrap();
            symlink("x", format!("d/l{who}")).unwrap();
            mknod(&format!("d/p{who}"), rustix::fs::FileType::Fifo, 0o644, 0).unwrap();
        };
        as_user(who, &[7, 8], make_all);
        for kind in ["f", "d", "l", "p"] {
            see!(g, look(&format!("d/{kind}{who}")));
        }
        see!(g, as_user(who, &[], || unlink(format!("d/p{who}"))), "ok");
    }
    // At once, from many threads, each file belongs to who made it.
    let users = [0, ANN, BOB, 1003];
    let start = Barrier::new(users.len());
    thread::scope(|scope| {
        for who in users {
            let start = &start;
            let make_many = move || {
                start.wait();
                for index in 0..100 {
                    make(&format!("d/{who}-{index}"), &format!("{who}")).unwrap();
                }
            };
            scope.spawn(move || as_user(who, &[], make_many));
        }
    });
    let right = |who: u32, index: u32| {
        look(&format!("d/{who}-{index}")).unwrap().starts_with(&format!("file 0644 {who}:{who} "))
    };
    see!(g, users.iter().all(|who| (0..100).all(|index| right(*who, index))), "true");
}

/// The content has just been read by its owner, so that pages and attributes are in memory.
fn secrets(g: &mut Stage) {
    see!(g, mkdir("d", 0o777), "ok");
    see!(g, chmod("d", 0o777), "ok");
    let make_secret = || {
        let fd = open_mode("d/secret", RDWR | CREATE, 0o600).unwrap();
        put(&fd, 0, "ann's secret").map(drop)
    };
    see!(g, as_user(ANN, &[], make_secret), "ok");
    for round in 0..20 {
        g.part(format!("round {round}"));
        see!(g, as_user(ANN, &[], || cat("d/secret")), "ann's secret");
        see!(g, as_user(BOB, &[], || cat("d/secret")), "EACCES");
        see!(g, as_user(BOB, &[ANN], || cat("d/secret")), "EACCES");
        see!(g, as_user(BOB, &[], || open("d/secret", WR)), "EACCES");
        see!(g, as_user(BOB, &[], || truncate("d/secret", 0)), "EACCES");
        see!(g, cat("d/secret"), "ann's secret");
    }
    g.part("while its owner reads");
    let (start, seen) = (Barrier::new(2), std::sync::Mutex::new(vec![]));
    thread::scope(|scope| {
        scope.spawn(|| {
            as_user(ANN, &[], || {
                start.wait();
                assert!((0..500).all(|_| cat("d/secret").unwrap() == "ann's secret"));
            });
        });
        let look_over = || {
            start.wait();
            (0..500).map(|_| crate::shown::Shown::shown(&cat("d/secret"))).collect::<Vec<_>>()
        };
        *seen.lock().unwrap() = as_user(BOB, &[], look_over);
    });
    see!(g, seen.lock().unwrap().iter().all(|seen| seen == "EACCES"), "true");
    g.part("its mode changed");
    see!(g, as_user(ANN, &[], || chmod("d/secret", 0o644)), "ok");
    see!(g, as_user(BOB, &[], || cat("d/secret")), "ann's secret");
    see!(g, as_user(ANN, &[], || chmod("d/secret", 0o640)), "ok");
    see!(g, as_user(BOB, &[], || cat("d/secret")), "EACCES");
    see!(g, as_user(BOB, &[ANN], || cat("d/secret")), "ann's secret");
    see!(g, chown("d/secret", BOB), "ok");
    see!(g, as_user(BOB, &[], || cat("d/secret")), "ann's secret");
    see!(g, as_user(ANN, &[], || cat("d/secret")), "EACCES");
    see!(g, chmod("d/secret", 0o007), "ok");
    see!(g, as_user(BOB, &[], || cat("d/secret")), "EACCES");
    see!(g, as_user(1003, &[BOB], || cat("d/secret")), "EACCES");
    see!(g, as_user(1003, &[], || cat("d/secret")), "ann's secret");
    see!(g, cat("d/secret"), "ann's secret");
    g.part("a descriptor outlives the permission");
    see!(g, chmod("d/secret", 0o666), "ok");
    let fd = as_user(ANN, &[], || open("d/secret", RDWR).unwrap());
    see!(g, chmod("d/secret", 0o600), "ok");
    see!(g, as_user(ANN, &[], || text_of(&fd)), "ann's secret");
    see!(g, as_user(ANN, &[], || put(&fd, 0, "ANN")), "3");
    see!(g, as_user(ANN, &[], || open(&link_of(&fd), RD)), "EACCES");
}

/// What each of the three permissions of a directory is for.
fn searching(g: &mut Stage) {
    see!(g, mkdir("p", 0o755), "ok");
    see!(g, mkdir("p/d", 0o755), "ok");
    see!(g, make("p/d/f", "content"), "ok");
    for (parent, own) in [
        (0o700, 0o777),
        (0o711, 0o777),
        (0o744, 0o777),
        (0o755, 0o700),
        (0o755, 0o711),
        (0o755, 0o744),
        (0o755, 0o722),
        (0o755, 0o733),
        (0o755, 0o755),
        (0o750, 0o777),
    ] {
        for (who, groups) in [(0, vec![]), (ANN, vec![]), (BOB, vec![0])] {
            g.part(format!("{parent:o} {own:o} for {who} of {groups:?}"));
            chmod("p", parent).unwrap();
            chmod("p/d", own).unwrap();
            let all = || {
                let dir = open("p/d", RD | OFlags::DIRECTORY).map(drop);
                let tried = (ls("p/d"), cat("p/d/f"), look("p/d/f"));
                let made = (make("p/d/g", "x"), mkdir("p/d/e", 0o755), symlink("x", "p/d/l"));
                let gone = (unlink("p/d/g"), rmdir("p/d/e"), unlink("p/d/l"));
                let moved = (rename("p/d/f", "p/d/h"), rename("p/d/h", "p/d/f"));
                let linked = (link("p/d/f", "p/d/k"), unlink("p/d/k"), may("p/d"));
                ((dir, tried, made), (gone, moved, linked))
            };
            see!(g, as_user(who, &groups, all));
        }
    }
    chmod("p", 0o755).unwrap();
    chmod("p/d", 0o755).unwrap();
    g.part("by descriptor");
    let dir = as_user(ANN, &[], || open("p/d", RD | DIR).unwrap());
    see!(g, chmod("p/d", 0o700), "ok");
    see!(g, as_user(ANN, &[], || entries(&dir).map(|found| found.len())), "3");
    see!(g, as_user(ANN, &[], || open_at(&dir, "f", RD)), "EACCES");
    see!(g, as_user(ANN, &[], || mkdirat(&dir, "x", mode(0o755))), "EACCES");
}

/// Each class of a mode, and that only the first which fits counts.
fn classes(g: &mut Stage) {
    see!(g, make("f", "content"), "ok");
    see!(g, chown_both("f", Some(ANN), Some(500)), "ok");
    for bits in [0o000, 0o400, 0o200, 0o100, 0o040, 0o004, 0o077, 0o707, 0o670, 0o555, 0o222, 0o111]
    {
        chmod("f", bits).unwrap();
        for (who, groups) in [(0, vec![]), (ANN, vec![500]), (BOB, vec![500]), (BOB, vec![])] {
            g.part(format!("{bits:03o} for {who} of {groups:?}"));
            see!(g, as_user(who, &groups, || (may("f"), open("f", RD), open("f", RDWR))));
        }
    }
    g.part("");
    chmod("f", 0o640).unwrap();
    see!(g, as_user(BOB, &[500], || cat("f")), "content");
    see!(g, as_user(BOB, &(2000..2030).chain([500]).collect::<Vec<_>>(), || cat("f")), "content");
    see!(g, as_user(500, &[], || cat("f")), "content");
    see!(g, as_user(BOB, &[501], || cat("f")), "EACCES");
    chmod("f", 0o755).unwrap();
    see!(g, as_user(BOB, &[], || (may("f"), cat("f"), open("f", WR))), "r-x content EACCES");
    std::fs::write("script", "#!/bin/sh\necho ran as $(id -u)\n").unwrap();
    chmod("script", 0o700).unwrap();
    chown("script", ANN).unwrap();
    for who in ["0", "1001", "1002"] {
        let ran = std::process::Command::new("setpriv")
            .args([format!("--reuid={who}"), format!("--regid={who}"), "--clear-groups".into()])
            .arg("./script")
            .output()
            .unwrap();
        see!(g, (who, String::from_utf8_lossy(&ran.stdout).trim().to_owned(), ran.status.code()));
    }
    see!(g, open_mode("script", WR, 0).map(|fd| put(&fd, 0, "#")).and_then(|done| done), "1");
}

#[test]
fn what_is_made_belongs_to_who_made_it() {
    twins(new_files, &[]);
}

#[test]
fn nobody_reads_what_another_keeps_to_himself() {
    twins(secrets, &[]);
}

#[test]
fn directories_let_in_whom_ext4_would() {
    twins(searching, &[]);
}

#[test]
fn the_first_class_that_fits_decides() {
    twins(classes, &[]);
}

#[test]
fn what_the_kernel_keeps_back_is_as_secret() {
    twins_written_back(secrets, &[]);
}
