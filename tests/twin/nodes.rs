//! Devices, sockets and FIFOs.

use rustix::fs::{FileType, OFlags, link, makedev, rename, unlink};

use crate::calls::*;
use crate::stage::{Stage, twins};

fn devices(g: &mut Stage) {
    let rdev = |path: &str| {
        let stat = rustix::fs::lstat(path)?;
        Ok::<_, rustix::io::Errno>((look(path)?, stat.st_rdev))
    };
    for (name, kind) in [("char", FileType::CharacterDevice), ("block", FileType::BlockDevice)] {
        for device in [makedev(0, 0), makedev(1, 3), makedev(255, 255), makedev(259, 70_000)] {
            g.part(format!("{name} {device:x}"));
            see!(g, mknod("n", kind, 0o640, device), "ok");
            see!(g, rdev("n"));
            see!(g, open("n", RD | OFlags::NONBLOCK), "EACCES");
            see!(g, open("n", PATH), "ok");
            see!(g, link("n", "m").and_then(|()| rename("m", "k")), "ok");
            see!(g, (rdev("k"), same("k", "n")));
            see!(g, (chmod("n", 0o666), chown("n", ANN), rdev("k")));
            see!(g, utimes("n", at(1, 0), at(2, 0)), "ok");
            see!(g, truncate("n", 0).is_err(), "true");
            see!(g, (unlink("n"), unlink("k")), "ok ok");
        }
        g.part(name);
        see!(g, mkdir("d", 0o777), "ok");
        see!(g, chmod("d", 0o777), "ok");
        see!(g, as_user(ANN, &[], || mknod("d/n", kind, 0o666, makedev(1, 3))), "EPERM");
        see!(g, as_user(ANN, &[], || mknod("d/zero", kind, 0o666, 0)));
        see!(g, as_user(ANN, &[], || mknod("d/p", FileType::Fifo, 0o666, 0)), "ok");
        see!(g, as_user(ANN, &[], || mknod("d/s", FileType::Socket, 0o666, 0)), "ok");
        see!(g, as_user(ANN, &[], || mknod("d/f", FileType::RegularFile, 0o666, 0)), "ok");
        for made in ["p", "s", "f"] {
            see!(g, look(&format!("d/{made}")));
        }
        std::fs::remove_dir_all("d").unwrap();
    }
    g.part("other kinds");
    see!(g, mknod("n", FileType::Directory, 0o755, 0));
    see!(g, mknod("n", FileType::Symlink, 0o755, 0), "EINVAL");
    see!(g, mknod("n", FileType::RegularFile, 0o600, makedev(1, 3)), "ok");
    see!(g, rdev("n"), "file 0600 0:0 n1 s0 0");
    see!(g, mknod("n", FileType::Fifo, 0o600, 0), "EEXIST");
}

fn sockets(g: &mut Stage) {
    g.python(
        "
def listening(kind=socket.SOCK_STREAM):
    one = socket.socket(socket.AF_UNIX, kind)
    one.bind('s')
    return one
def connected(path='s', kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as one:
        one.connect(path)
one = listening()
say('it is', stat.filemode(os.lstat('s').st_mode))
saw('not listening', connected)
one.listen()
saw('bound twice', listening)
saw('opened', lambda: os.close(os.open('s', os.O_RDWR)))
saw('opened by path', lambda: os.close(os.open('s', os.O_PATH)))
def talk():
    with socket.socket(socket.AF_UNIX) as other:
        other.connect('s')
        other.sendall(b'question')
        assert other.recv(100) == b'answer'
pid = child(talk)
peer = one.accept()[0]
say('asked', peer.recv(100))
peer.sendall(b'answer')
say('it ends', ended(pid))
os.link('s', 't')
os.rename('s', 'u')
saw('by another name', lambda: connected('t'))
saw('renamed', lambda: connected('u'))
saw('the old name', connected)
os.chmod('u', 0o600)
def stranger():
    os.setgid(1001)
    os.setuid(1001)
    say('as another user', tried(lambda: connected('u')))
say('it ends', ended(child(stranger)))
os.chmod('u', 0o622)
say('it ends', ended(child(stranger)))
one.close()
saw('closed', lambda: connected('u'))
os.unlink('u')
saw('unlinked', lambda: connected('u'))
saw('no socket', lambda: (open('f', 'w').close(), connected('f')))
saw('a directory', lambda: connected('.'))
packets = listening(socket.SOCK_DGRAM)
saw('of another kind', connected)
saw('a packet', lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'packet', 's'))
say('received', packets.recv(100))
assert os.stat('s').st_nlink == 1
long = 'n' * 107
saw('a name as long as may be', lambda: socket.socket(socket.AF_UNIX).bind(long))
saw('connected to it', lambda: connected(long))
",
    );
    see!(g, ls("."));
}

fn fifos(g: &mut Stage) {
    g.python(
        "
os.mkfifo('p', 0o622)
saw('nobody reads', lambda: os.open('p', os.O_WRONLY | os.O_NONBLOCK))
def write():
    with open('p', 'wb') as pipe:
        for n in range(1000):
            pipe.write(b'line %d\\n' % n)
pid = child(write)
with open('p', 'rb') as pipe:
    text = pipe.read()
say('it ends', ended(pid))
say('read', (len(text), text.count(b'\\n'), text[-9:]))
assert text == b''.join(b'line %d\\n' % n for n in range(1000))
say('its size', os.stat('p').st_size)
both = os.open('p', os.O_RDWR | os.O_NONBLOCK)
saw('empty', lambda: os.read(both, 10))
say('full at', sum(iter(lambda: tried(lambda: os.write(both, b'x' * 4096)) == 4096, False)))
saw('full', lambda: os.write(both, b'x'))
os.link('p', 'q')
os.unlink('p')
reader = os.open('q', os.O_RDONLY | os.O_NONBLOCK)
say('by another name', len(os.read(reader, 5000)))
saw('sought', lambda: os.lseek(reader, 0, 0))
saw('cut', lambda: os.ftruncate(both, 0))
saw('synced', lambda: os.fsync(both))
saw('mapped', lambda: mmap.mmap(both, 4096) and None)
os.unlink('q')
say('unlinked', len(os.read(reader, 5000)))
say('links left', os.fstat(reader).st_nlink)
def stranger():
    os.setgid(1001)
    os.setuid(1001)
    saw('to read', lambda: os.close(os.open('r', os.O_RDONLY | os.O_NONBLOCK)))
    saw('to write', lambda: os.close(os.open('r', os.O_WRONLY | os.O_NONBLOCK)))
os.mkfifo('r')
os.chmod('r', 0o622)
say('it ends', ended(child(stranger)))
",
    );
    see!(g, look("r"), "fifo 0622 0:0 n1 s0");
}

#[test]
fn devices_are_made_and_kept_as_on_ext4() {
    twins(devices, &[]);
}

#[test]
fn sockets_are_bound_and_found_as_on_ext4() {
    twins(sockets, &[]);
}

#[test]
fn fifos_connect_processes_as_on_ext4() {
    twins(fifos, &[]);
}
