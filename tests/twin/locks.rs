//! Locks between processes, leases, and who is told of what.

use std::process::Command;

use crate::calls::*;
use crate::stage::{Stage, twins};

/// One process has a lock, another one asks for it.
const LOCKED: &str = "
open('f', 'w').write('x' * 1000)
def hold(take):
    'Runs take(fd) in another process, and lets it go when its pipe is closed.'
    ready, told = os.pipe()
    wait, go = os.pipe()
    def work():
        os.close(go)
        fd = os.open('f', os.O_RDWR)
        os.write(told, tried(lambda: take(fd)).encode())
        os.read(wait, 1)
    pid = child(work)
    os.close(told)
    os.close(wait)
    say('the holder', os.read(ready, 100).decode())
    return pid, go
def let_go(held):
    os.close(held[1])
    say('it ends', ended(held[0]))
";

fn flocks(g: &mut Stage) {
    g.python(
        &(LOCKED.to_owned()
            + "
EX, SH, UN, NB = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_NB
fd = os.open('f', os.O_RDWR)
for name, how in [('exclusive', EX), ('shared', SH)]:
    held = hold(lambda fd: fcntl.flock(fd, how))
    saw(name + ', shared asked', lambda: fcntl.flock(fd, SH | NB))
    saw(name + ', exclusive asked', lambda: fcntl.flock(fd, EX | NB))
    saw('let go', lambda: fcntl.flock(fd, UN))
    let_go(held)
    saw('after its exit', lambda: fcntl.flock(fd, EX | NB))
    saw('let go', lambda: fcntl.flock(fd, UN))
held = hold(lambda fd: fcntl.flock(fd, EX))
saw('a record lock beside it', lambda: fcntl.lockf(fd, EX | NB))
other = os.open('f', os.O_RDONLY)
saw('of one process', lambda: fcntl.flock(other, SH | NB))
let_go(held)
saw('exclusive for a reader', lambda: fcntl.flock(other, EX | NB))
saw('down', lambda: fcntl.flock(other, SH | NB))
saw('of two descriptors', lambda: fcntl.flock(fd, EX | NB))
duplicate = os.dup(other)
os.close(other)
saw('a duplicate keeps it', lambda: fcntl.flock(fd, EX | NB))
os.close(duplicate)
saw('closed', lambda: fcntl.flock(fd, EX | NB))
waiter = child(lambda: fcntl.flock(os.open('f', os.O_RDWR), EX))
fcntl.flock(fd, UN)
say('who waited', ended(waiter))
def interrupted():
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        fcntl.flock(os.open('f', os.O_RDWR), EX)
    except KeyboardInterrupt:
        os._exit(7)
fcntl.flock(fd, EX)
say('who waits can be interrupted', ended(child(interrupted)))
directory = os.open('.', os.O_RDONLY)
saw('a directory', lambda: fcntl.flock(directory, EX | NB))
saw('a directory twice', lambda: fcntl.flock(os.open('.', os.O_RDONLY), EX | NB))
path = os.open('f', os.O_PATH)
saw('by path', lambda: fcntl.flock(path, EX | NB))
assert tried(lambda: fcntl.flock(os.open('f', os.O_RDWR), EX | NB)) == 'EAGAIN'
"),
    );
    let script = "exec 9>lock; flock -n 9
        flock -n lock true; echo $?; flock -u 9; flock -n lock true; echo $?";
    g.part("flock(1)");
    g.program(Command::new("bash").args(["-c", script]));
}

const RECORDS: &str = "
EX, SH, UN, NB = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_NB
KINDS = {fcntl.F_RDLCK: 'read', fcntl.F_WRLCK: 'write', fcntl.F_UNLCK: 'none'}
def test(fd, kind, start, length, command=fcntl.F_GETLK, pid=None):
    'What stands in the way, and whether it is of that process.'
    asked = struct.pack('hhqqi4x', kind, 0, start, length, 0)
    kind, _, start, length, who = struct.unpack('hhqqi4x', fcntl.fcntl(fd, command, asked))
    if kind == fcntl.F_UNLCK:
        return 'none'
    return KINDS[kind], start, length, who == pid if pid else who
";

fn records(g: &mut Stage) {
    g.python(
        &(LOCKED.to_owned()
            + RECORDS
            + "
fd = os.open('f', os.O_RDWR)
def take(fd):
    fcntl.lockf(fd, EX | NB, 100, 100)
    fcntl.lockf(fd, SH | NB, 50, 300)
held = hold(take)
for start, length in [(0, 100), (0, 101), (99, 1), (150, 1), (199, 1), (200, 1), (300, 49),
                      (300, 50), (320, 10), (349, 1), (350, 1), (0, 0)]:
    for name, kind in [('read', fcntl.F_RDLCK), ('write', fcntl.F_WRLCK)]:
        call = '%s %d %d' % (name, start, length)
        say('test ' + call, test(fd, kind, start, length, pid=held[0]))
        saw(call, lambda: fcntl.lockf(fd, (SH if name == 'read' else EX) | NB, length, start))
        saw('let go', lambda: fcntl.lockf(fd, UN, 0, 0))
let_go(held)
say('after its exit', test(fd, fcntl.F_WRLCK, 0, 0))
# Taken apart and put together.
def middle(fd):
    fcntl.lockf(fd, EX | NB, 300, 0)
    fcntl.lockf(fd, UN, 100, 100)
    fcntl.lockf(fd, SH | NB, 50, 220)
held = hold(middle)
for start in (0, 99, 100, 199, 200, 219, 220, 269, 270, 299, 300):
    say('at %d' % start, test(fd, fcntl.F_WRLCK, start, 1, pid=held[0]))
    say('to read at %d' % start, test(fd, fcntl.F_RDLCK, start, 1, pid=held[0]))
let_go(held)
# Whichever descriptor is closed, all locks of the process go.
def closes(fd):
    fcntl.lockf(fd, EX | NB)
    os.close(os.open('f', os.O_RDONLY))
held = hold(closes)
say('closed another descriptor', test(fd, fcntl.F_WRLCK, 0, 0, pid=held[0]))
let_go(held)
fcntl.lockf(fd, EX | NB, 10)
say('of a child', ended(child(lambda: sys.exit(tried(
    lambda: fcntl.lockf(os.open('f', os.O_RDWR), EX | NB, 10)) != 'EAGAIN'))))
reader = os.open('f', os.O_RDONLY)
saw('to write, opened to read', lambda: fcntl.lockf(reader, EX | NB))
writer = os.open('f', os.O_WRONLY)
saw('to read, opened to write', lambda: fcntl.lockf(writer, SH | NB))
saw('before the start', lambda: fcntl.lockf(fd, EX | NB, 10, -5))
saw('far out', lambda: fcntl.lockf(fd, EX | NB, 10, 1 << 62))
# Each waits for what the other has.
ready, told = os.pipe()
fcntl.lockf(fd, UN)
fcntl.lockf(fd, EX, 1, 0)
def deadlock():
    mine = os.open('f', os.O_RDWR)
    fcntl.lockf(mine, EX, 1, 1)
    os.write(told, b'x')
    fcntl.lockf(mine, EX, 1, 0)
pid = child(deadlock)
os.read(ready, 1)
while not os.path.exists('/proc/%d/stat' % pid):
    pass
def state():
    return open('/proc/%d/stat' % pid).read().rsplit(')', 1)[1].split()[0]
while state() != 'S':
    pass
saw('a circle', lambda: fcntl.lockf(fd, EX, 1, 1))
fcntl.lockf(fd, UN)
say('the other', ended(pid))
"),
    );
}

fn of_open_files(g: &mut Stage) {
    g.python(
        &(LOCKED.to_owned()
            + RECORDS
            + "
GET, SET = 36, 37
def ofd(fd, kind, start, length):
    fcntl.fcntl(fd, SET, struct.pack('hhqqi4x', kind, 0, start, length, 0))
R, W, U = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
one, two = os.open('f', os.O_RDWR), os.open('f', os.O_RDWR)
saw('one', lambda: ofd(one, W, 0, 100))
saw('two beside it', lambda: ofd(two, W, 100, 100))
saw('two over it', lambda: ofd(two, R, 50, 100))
say('who', test(two, W, 50, 10, GET))
say('who, as a process', test(two, W, 50, 10))
saw('a process lock', lambda: fcntl.lockf(one, EX | NB, 10, 0))
os.close(os.open('f', os.O_RDWR))
say('after a close', test(two, W, 50, 10, GET))
shared = os.dup(one)
os.close(one)
say('a duplicate keeps it', test(two, W, 50, 10, GET))
say('a child', ended(child(lambda: sys.exit(tried(lambda: ofd(shared, W, 0, 100)) != 'ok'))))
os.close(shared)
say('closed', test(two, W, 50, 10, GET))
saw('all of it', lambda: ofd(two, W, 0, 0))
held = hold(lambda fd: ofd(fd, R, 0, 1))
let_go(held)
saw('let go', lambda: ofd(two, U, 0, 0))
held = hold(lambda fd: ofd(fd, W, 0, 10))
saw('of another', lambda: fcntl.lockf(two, EX | NB, 1, 0))
let_go(held)
saw('after its exit', lambda: fcntl.lockf(two, EX | NB, 1, 0))
saw('with a process id', lambda: fcntl.fcntl(two, SET, struct.pack('hhqqi4x', W, 0, 0, 1, 1)))
"),
    );
}

fn leases_and_notices(g: &mut Stage) {
    see!(g, make("f", "content"), "ok");
    let fd = get!(g, open("f", RD));
    for (name, kind) in [("read", libc::F_RDLCK), ("write", libc::F_WRLCK)] {
        g.part(format!("a lease to {name}"));
        see!(g, fcntl(&fd, libc::F_SETLEASE, kind).map(drop));
        see!(g, fcntl(&fd, libc::F_GETLEASE, 0).is_ok(), "true");
        see!(g, fcntl(&fd, libc::F_SETLEASE, libc::F_UNLCK).map(drop));
    }
    g.part("");
    see!(g, as_user(ANN, &[], || fcntl(&fd, libc::F_SETLEASE, libc::F_RDLCK).map(drop)), "EACCES");
    let dir = get!(g, open(".", RD | DIR));
    see!(g, fcntl(&dir, libc::F_SETLEASE, libc::F_RDLCK).map(drop));
    see!(g, fcntl(&dir, libc::F_NOTIFY, 1).map(drop));
    see!(g, fcntl(&fd, libc::F_NOTIFY, 1).map(drop), "ENOTDIR");
    see!(g, fcntl(&fd, libc::F_GETPIPE_SZ, 0).map(drop), "EBADF");
    see!(g, fcntl(&fd, libc::F_ADD_SEALS, 1).map(drop));
    see!(g, fcntl(&fd, libc::F_GETFL, 0).is_ok(), "true");
    see!(g, fcntl(&fd, 9999, 0).map(drop), "EINVAL");
}

#[test]
fn whole_file_locks_hold_between_processes() {
    twins(flocks, &[]);
}

#[test]
fn record_locks_hold_between_processes() {
    twins(records, &[]);
}

#[test]
fn locks_of_open_files_hold_between_processes() {
    twins(of_open_files, &[]);
}

#[test]
fn leases_and_notices_are_granted_or_refused_as_on_ext4() {
    twins(leases_and_notices, &[]);
}
