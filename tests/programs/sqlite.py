"""A ledger in a database, written by four processes at once and read meanwhile.

sqlite.py fill DATABASE MODE | sqlite.py spill DATABASE | sqlite.py check DATABASE ENTRIES
"""

import os
import sqlite3
import subprocess
import sys

WRITERS = 4
TRANSACTIONS = 150
ENTRIES = 5


def connect(path):
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    database.execute("pragma synchronous = full")
    return database


def create(path, mode):
    database = connect(path)
    assert database.execute(f"pragma journal_mode = {mode}").fetchone() == (mode,)
    database.execute("create table entry (writer, number, amount, note, unique (writer, number))")
    database.execute("create table total (entries, amount)")
    database.execute("insert into total values (0, 0)")
    database.close()


def enter(database, writer, transaction, note):
    """Some entries, and each in the total, which goes wrong if one transaction misses another."""
    for number in range(transaction * ENTRIES, (transaction + 1) * ENTRIES):
        amount = number * 3
        row = (writer, number, amount, f"{note} {number} " * (number % 50))
        database.execute("insert into entry values (?, ?, ?, ?)", row)
        add = "update total set entries = entries + 1, amount = amount + ?"
        database.execute(add, (amount,))


def write(path, writer):
    database = connect(path)
    for transaction in range(TRANSACTIONS):
        if transaction % 7 == 3:
            database.execute("begin immediate")
            enter(database, writer, transaction, "never")
            database.execute("rollback")
        database.execute("begin immediate")
        enter(database, writer, transaction, writer)
        database.execute("commit")
    database.close()


def sums(database):
    """What the ledger says, and what its entries say, as of one moment."""
    database.execute("begin")
    total = database.execute("select entries, amount from total").fetchone()
    found = database.execute("select count(*), coalesce(sum(amount), 0) from entry").fetchone()
    database.execute("commit")
    assert found == total, (found, total)
    assert found[0] % ENTRIES == 0, found
    return found


def read(path):
    """Until everything is there; nothing is ever seen in part, and nothing goes again."""
    database = connect(path)
    before, _ = sums(database)
    print("reading", flush=True)
    while before < WRITERS * TRANSACTIONS * ENTRIES:
        entries, _ = sums(database)
        assert entries >= before, (entries, before)
        before = entries
    database.close()


def fill(path, mode):
    create(path, mode)
    self = [sys.executable, __file__]
    reader = subprocess.Popen([*self, "read", path], stdout=subprocess.PIPE)
    assert reader.stdout.readline() == b"reading\n"
    writers = [[*self, "write", path, str(writer)] for writer in range(WRITERS)]
    running = [reader] + [subprocess.Popen(writer) for writer in writers]
    codes = [process.wait() for process in running]
    assert codes == [0] * len(codes), codes


def spill(path):
    """Dies within a transaction of which a part is in the database's own file already."""
    database = connect(path)
    database.execute("pragma cache_size = 5")
    database.execute("begin immediate")
    database.execute("update entry set note = note || 'never'")
    for number in range(20_000):
        database.execute("insert into entry values ('never', ?, 1, 'never')", (number,))
    os.kill(os.getpid(), 9)


def check(path, entries):
    database = connect(path)
    assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert sums(database)[0] == entries
    by_writer = database.execute("select writer, count(*) from entry group by writer").fetchall()
    assert by_writer == [(str(w), TRANSACTIONS * ENTRIES) for w in range(WRITERS)], by_writer
    never = "select count(*) from entry where note like '%never%'"
    assert database.execute(never).fetchone() == (0,)
    database.close()


if __name__ == "__main__":
    verb, path, *rest = sys.argv[1:]
    if verb == "check":
        check(path, int(rest[0]))
    else:
        {"fill": fill, "write": write, "read": read, "spill": spill}[verb](path, *rest)
