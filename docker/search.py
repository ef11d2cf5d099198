"""Looks for plaintext of the first job under a directory: in every byte of every file, in file
names, in symlink targets and in extended attributes.

    search.py plant DIR      adds hits in every encoding to a plain copy of the job's files
    search.py control DIR    succeeds only if it finds each kind of needle there
    search.py store DIR      succeeds only if it finds none

What it looks for is made again from the seed, so that no plaintext has to be kept beside the store:
the marker sentence, pieces of documents, keys of the model's JSON, file names, each as it is, as
UTF-16, as hexadecimal digits and as base64 at each of the three alignments. Besides it looks at
every 16th offset for the beginning of any 4 KiB page of any document, and packs what is not zero:
sealed bytes do not get smaller, text does.
"""

import base64
import collections
import json
import mmap
import os
import sys
import zlib

import dataset

PAGE = 4096
PAGE_HEAD = 32
STEP = 16
PIECES = 40
PIECE_LEN = 48
PACKED_SHARE_MIN = 0.95
HITS_SHOWN = 20
MODEL_KEYS = [b"class_labels", b"hashed_word_weights", b"hashed_word_buckets", b"training_history"]
FILE_NAMES = [b"customer-record-", b"hyperparameters.json", b"checkpoint.bin", b"model.json"]
PLANTED = dataset.MARKER + b", planted"

Needle = collections.namedtuple("Needle", "kind encoding bytes")


def encodings(text):
    """Every form in which `text` is looked for: (name of the form, bytes)."""
    yield "raw", text
    yield "utf-16-le", text.decode("latin-1").encode("utf-16-le")
    yield "utf-16-be", text.decode("latin-1").encode("utf-16-be")
    yield "hex", text.hex().encode()
    yield "HEX", text.hex().upper().encode()
    for before in range(3):
        # Of the characters at either end a part of the bits belongs to the neighbours.
        code = base64.b64encode(bytes(before) + text).rstrip(b"=")
        code = code[-(-before * 8 // 6) : (before + len(text)) * 8 // 6]
        yield f"base64+{before}", code
        if code.translate(bytes.maketrans(b"+/", b"-_")) != code:
            yield f"base64url+{before}", code.translate(bytes.maketrans(b"+/", b"-_"))


def needles(documents):
    """All needles, without repetition."""
    texts = [("marker", dataset.MARKER)]
    texts += [("model key", key) for key in MODEL_KEYS]
    texts += [("file name", name) for name in FILE_NAMES]
    for number in range(0, len(documents), max(1, len(documents) // PIECES)):
        name, content = documents[number]
        middle = len(content) // 2
        texts.append(("file name", name.encode()))
        texts.append(("data", content[middle : middle + PIECE_LEN]))
    found = {code: (kind, form) for kind, text in texts for form, code in encodings(text)}
    return [Needle(kind, form, code) for code, (kind, form) in found.items() if code.strip()]


def page_heads(documents):
    """How every page of every document begins; pages that begin with blanks only left out."""
    heads = set()
    for _, content in documents:
        for at in range(0, len(content) - PAGE_HEAD + 1, PAGE):
            head = content[at : at + PAGE_HEAD]
            if len(set(head)) > 4:
                heads.add(head)
    return heads


class Search:
    """One walk over a directory; counts what it saw and what it found."""

    def __init__(self, documents):
        self.needles = needles(documents)
        self.heads = page_heads(documents)
        self.hits = collections.Counter()
        self.shown = []
        self.files = self.bytes = self.filled = self.packed = 0

    def hit(self, where, kind, encoding, place):
        """Counts a hit and keeps the first few to be shown."""
        self.hits[where, kind, encoding] += 1
        if len(self.shown) < HITS_SHOWN:
            self.shown.append(f"{place}: {kind} ({encoding}) in the {where}")

    def look(self, where, content, place):
        """Looks for every needle in `content`, which has a `find`."""
        for needle in self.needles:
            at = content.find(needle.bytes)
            if at >= 0:
                self.hit(where, needle.kind, needle.encoding, f"{place} at byte {at}")

    def look_at_file(self, path):
        """Every byte of a file."""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.files += 1
            self.bytes += size
            if size == 0:
                return
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
                self.look("bytes", content, path)
                for at in range(0, size - PAGE_HEAD + 1, STEP):
                    if content[at : at + PAGE_HEAD] in self.heads:
                        self.hit("bytes", "page", "raw", f"{path} at byte {at}")
                self.pack(content, size)

    def pack(self, content, size):
        """Packs the pages that hold anything; holes and unused slots are zeros."""
        packer = zlib.compressobj(1)
        for at in range(0, size, PAGE):
            page = content[at : at + PAGE]
            if page.count(0) < len(page):
                self.filled += len(page)
                self.packed += len(packer.compress(page))
        self.packed += len(packer.flush())

    def look_at(self, path, inside):
        """A file, directory or symlink: its name, its attributes, what it holds."""
        self.look("name", os.fsencode(inside), path)
        if os.path.islink(path):
            self.look("link", os.fsencode(os.readlink(path)), path)
        for name in os.listxattr(path, follow_symlinks=False):
            value = os.getxattr(path, name, follow_symlinks=False)
            self.look("attribute", os.fsencode(name) + b"=" + value, path)
        if os.path.isfile(path) and not os.path.islink(path):
            self.look_at_file(path)

    def walk(self, top):
        """Everything below `top`; names are looked at without the name of `top` itself."""
        def fail(error):
            raise error

        for folder, folders, names in os.walk(top, onerror=fail):
            for name in sorted(folders) + sorted(names):
                self.look_at(os.path.join(folder, name), name)

    def packed_share(self):
        """Packed size as a share of what was packed."""
        return self.packed / max(self.filled, 1)

    def figures(self):
        """What the table of the first job shows."""
        return {
            "files": self.files,
            "mb": round(self.bytes / 1e6, 1),
            "needles": len(self.needles) + len(self.heads),
            "hits": sum(self.hits.values()),
            "packed_percent": round(100 * self.packed_share(), 1),
        }


def plant(folder):
    """Puts the marker, in each encoding, and in a name, a link and an attribute, into `folder`."""
    os.makedirs(folder)

    def write(name, content):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"\x00\xff" * 50 + content + b"\x00\xff" * 50)

    text = PLANTED.decode("ascii")
    write("utf-16-le", text.encode("utf-16-le"))
    write("utf-16-be", text.encode("utf-16-be"))
    write("hex", PLANTED.hex().encode())
    write("HEX", PLANTED.hex().upper().encode())
    for before in range(3):
        write(f"base64+{before}", base64.b64encode(b"abc"[:before] + PLANTED))
    os.symlink(f"to/{text}", os.path.join(folder, "link"))
    write(base64.urlsafe_b64encode(b"x" + b"customer-record-000000.txt").decode(), b"")
    with open(os.path.join(folder, "attribute"), "wb") as file:
        file.write(b"-")
    os.setxattr(os.path.join(folder, "attribute"), "user.note", PLANTED)


def missing(search):
    """What a control copy has and the search did not find."""
    wanted = [
        ("bytes", "marker", "raw"),
        ("bytes", "data", "raw"),
        ("bytes", "model key", "raw"),
        ("bytes", "page", "raw"),
        ("name", "file name", "raw"),
        ("name", "file name", "base64+1"),
        ("link", "marker", "raw"),
        ("attribute", "marker", "raw"),
    ]
    forms = ["utf-16-le", "utf-16-be", "hex", "HEX", "base64+0", "base64+1", "base64+2"]
    wanted += [("bytes", "marker", form) for form in forms]
    lacking = [" ".join(hit) for hit in wanted if not search.hits[hit]]
    if search.packed_share() >= PACKED_SHARE_MIN:
        lacking.append(f"text that packs: {search.figures()['packed_percent']} %")
    return lacking


def main():
    """Prints the figures as a line of JSON; the exit code says whether it is as wanted."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("plant", "control", "store"):
        sys.exit(__doc__)
    mode, top = sys.argv[1:]
    if mode == "plant":
        plant(os.path.join(top, "planted"))
        return
    size = int(os.environ.get("JOB_TRAIN_BYTES", dataset.TRAIN_BYTES))
    search = Search(list(dataset.documents("train", size)))
    search.walk(top)
    print(f"{mode}: " + json.dumps(search.figures()))
    if mode == "control":
        lacking = missing(search)
        if lacking:
            sys.exit(f"search: of the plain copy it did not find: {', '.join(lacking)}")
        return
    if not search.files:
        sys.exit(f"search: no files below {top}: nothing was searched")
    if search.hits:
        shown = "\n  ".join(search.shown)
        sys.exit(f"search: PLAINTEXT below {top}, {sum(search.hits.values())} hits:\n  {shown}")
    if search.packed_share() < PACKED_SHARE_MIN:
        share = search.figures()["packed_percent"]
        sys.exit(f"search: bytes below {top} pack to {share} %: they are not sealed")


if __name__ == "__main__":
    main()
