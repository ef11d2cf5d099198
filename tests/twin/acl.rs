//! Access control lists, by the programs that people set them with.

use std::process::Command;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, link, mkdirat, rename};

use crate::calls::*;
use crate::stage::{Stage, twins};

/// A command of the shell, with what it prints.
fn sh(g: &mut Stage, script: &str) {
    g.part(script.lines().next().unwrap_or_default().trim());
    let script = format!("tree() {{ find $1 | sort | xargs getfacl $2; }}\n{script}");
    let output = Command::new("sh").args(["-uc", &script]).env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    g.saw("prints", &text, None);
    g.saw("complains", &String::from_utf8_lossy(&output.stderr).into_owned(), None);
    g.saw("exit code", &output.status.code(), None);
    g.part("");
}

fn may(path: &str) -> String {
    let all = [("r", Access::READ_OK), ("w", Access::WRITE_OK), ("x", Access::EXEC_OK)];
    let allowed = |access| accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    all.iter().map(|(letter, access)| if allowed(*access) { *letter } else { "-" }).collect()
}

fn everyone(g: &mut Stage, path: &str) {
    for (who, groups) in [
        (0, vec![]),
        (ANN, vec![]),
        (BOB, vec![]),
        (1003, vec![]),
        (1003, vec![500]),
        (1003, vec![501]),
        (1003, vec![500, 501, 502]),
        (1004, vec![502]),
    ] {
        see!(g, (who, groups.clone(), as_user(who, &groups, || may(path))));
        see!(g, as_user(who, &groups, || (open(path, RD), open(path, WR))));
    }
}

fn decided(g: &mut Stage) {
    see!(g, make("f", "content"), "ok");
    see!(g, chown_both("f", Some(ANN), Some(500)), "ok");
    for list in [
        "u::rw,g::-,o::-,u:1002:r,m::rw",
        "u::r,g::rw,o::x,u:1002:rwx,g:501:w,m::rwx",
        "u::r,g::rw,o::rwx,u:1002:rwx,g:501:w,m::r",
        "u::-,g::-,o::rwx,u:1003:-,g:502:x,m::rwx",
        "u::rwx,g::r,o::-,g:501:w,g:502:x,m::-",
        "u::rw,g::r,o::r",
    ] {
        sh(g, &format!("setfacl --set {list} f && getfacl -n f && stat -c %A f"));
        g.part(list);
        everyone(g, "f");
        see!(g, look("f"));
    }
    g.part("");
    sh(g, "setfacl -m u:1002:r f; getfacl -cn f; chmod 600 f; getfacl -cn f");
    sh(g, "chmod g=rw f; getfacl -cn f; chmod 777 f; getfacl -cn f; chmod 000 f; getfacl -cn f");
    sh(g, "setfacl -x u:1002 f; getfacl -cn f; setfacl -b f; getfacl -cn f; stat -c %a f");
    see!(g, listx("f"), "");
    g.part("who may set one");
    see!(g, chmod("f", 0o666), "ok");
    let setfacl = |who: &str| {
        let user = [format!("--reuid={who}"), format!("--regid={who}"), "--clear-groups".into()];
        let mut command = Command::new("setpriv");
        command.args(user).args(["setfacl", "-m", "u:1003:rwx", "f"]);
        command.output().unwrap().status.code()
    };
    see!(g, setfacl("1002"), "1");
    see!(g, setfacl("1001"), "0");
    see!(g, (look("f"), listx("f")));
    see!(g, as_user(BOB, &[], || getx("f", "system.posix_acl_access")));
    g.part("moved, linked, given away");
    see!(g, rename("f", "g"), "ok");
    see!(g, link("g", "h"), "ok");
    see!(g, chown("h", BOB), "ok");
    sh(g, "getfacl -cn g h");
    see!(g, as_user(ANN, &[], || may("g")));
    see!(g, as_user(1003, &[], || may("g")));
}

fn inherited(g: &mut Stage) {
    see!(g, mkdir("d", 0o755), "ok");
    sh(g, "setfacl -d -m u:1001:rwx,g:500:rx,o::- d; getfacl -cn d");
    for mask in [0o000, 0o077] {
        umask(mask);
        g.part(format!("with mask {mask:03o}"));
        for bits in [0o666, 0o640, 0o600, 0o777, 0o444, 0o000] {
            see!(g, open_mode("d/f", WR | CREATE, bits), "ok");
            see!(g, (look("d/f"), getx("d/f", "system.posix_acl_access")));
            see!(g, rustix::fs::unlink("d/f"), "ok");
            see!(g, mkdir("d/sub", bits), "ok");
            see!(g, (look("d/sub"), getx("d/sub", "system.posix_acl_access")));
            see!(g, getx("d/sub", "system.posix_acl_default"));
            see!(g, rustix::fs::rmdir("d/sub"), "ok");
            see!(g, mknod("d/p", FileType::Fifo, bits, 0), "ok");
            see!(g, (look("d/p"), getx("d/p", "system.posix_acl_access")));
            see!(g, rustix::fs::unlink("d/p"), "ok");
        }
        see!(g, rustix::fs::symlink("x", "d/l"), "ok");
        see!(g, (look("d/l"), listx("d/l")));
        see!(g, rustix::fs::unlink("d/l"), "ok");
    }
    umask(0o022);
    g.part("three levels");
    see!(g, mkdir("d/one", 0o777), "ok");
    see!(g, mkdir("d/one/two", 0o777), "ok");
    see!(g, make("d/one/two/f", "content"), "ok");
    sh(g, "tree d -cn");
    see!(g, as_user(ANN, &[], || cat("d/one/two/f")), "content");
    see!(g, chmod("d", 0o750), "ok");
    see!(g, as_user(ANN, &[], || cat("d/one/two/f")), "EACCES");
    see!(g, chmod("d", 0o755), "ok");
    see!(g, as_user(ANN, &[], || cat("d/one/two/f")), "content");
    see!(g, as_user(ANN, &[], || make("d/one/two/anns", "")), "ok");
    see!(g, as_user(BOB, &[], || cat("d/one/two/f")), "EACCES");
    see!(g, as_user(BOB, &[500], || cat("d/one/two/f")), "content");
    see!(g, as_user(BOB, &[500], || make("d/one/two/bobs", "")), "EACCES");
    see!(g, look("d/one/two/anns"), "file 0660 1001:1001 n1 s0");
    g.part("a default without the others");
    see!(g, mkdir("e", 0o2775), "ok");
    sh(g, "setfacl -d -m u::rwx,g::rx,o::r e; getfacl -cn e; mkdir e/s; touch e/f");
    sh(g, "tree e -cn; setfacl -k e; getfacl -cn e; touch e/g; stat -c %a e/g");
    sh(g, "touch f; setfacl -d -m u:1:r f; echo $?");
    let dir = get!(g, open("d", RD | DIR));
    see!(g, mkdirat(&dir, "at", mode(0o700)), "ok");
    see!(g, look("d/at"));
}

/// What backup programs do.
fn round_trip(g: &mut Stage) {
    sh(
        g,
        "mkdir -p a/b; echo x >a/b/f; echo y >a/g
        setfacl -m u:1001:rw,g:500:r a/b/f; setfacl -m u:1002:rwx,d:u:1003:r,d:g:501:rx a/b
        setfacl -m m::r a/g; chmod 2750 a/b; tree a -n >saved; cat saved",
    );
    sh(g, "cp -a a copied; cd copied && tree . -n");
    sh(g, "setfacl -Rb a; tree a -cn; setfacl --restore=saved; tree a -n | cmp - saved");
    sh(g, "getfacl -n a/b | setfacl --set-file=- a/g; getfacl -cn a/g");
    sh(g, "tar --acls --xattrs -cf t.tar a && rm -r a && tar --acls --xattrs -xf t.tar");
    sh(g, "tree a -n | cmp - saved; chmod -R g-w a; tree a -cn; ls -lR a | wc -l");
    g.part("in bytes");
    let list = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\
        \x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    see!(g, setx("saved", "system.posix_acl_access", list), "ok");
    see!(g, (look("saved"), listx("saved")));
    see!(g, setx("saved", "system.posix_acl_access", &list[..27]), "EINVAL");
    see!(g, setx("saved", "system.posix_acl_access", &list[..20]), "EINVAL");
    see!(g, setx("saved", "system.posix_acl_access", b"\x01\0\0\0"));
    see!(g, setx("saved", "system.posix_acl_default", list), "EACCES");
    see!(g, setx("saved", "system.posix_acl_access", b"\x02\0\0\0"));
    see!(g, setx("saved", "system.posix_acl_access", b""));
    see!(g, rustix::fs::removexattr("saved", "system.posix_acl_access"));
    see!(g, rustix::fs::removexattr("a", "system.posix_acl_default"));
    see!(g, rustix::fs::symlink("saved", "link"), "ok");
    see!(g, setx("link", "system.posix_acl_access", list));
    see!(g, getx("link", "system.posix_acl_access"));
    see!(g, getx("saved", "system.posix_acl_access"));
    see!(g, getx("none", "system.posix_acl_access"), "ENOENT");
}

#[test]
fn lists_decide_as_on_ext4() {
    twins(decided, &[]);
}

#[test]
fn lists_are_inherited_as_on_ext4() {
    twins(inherited, &[]);
}

#[test]
fn lists_survive_their_own_programs() {
    twins(round_trip, &[]);
}
