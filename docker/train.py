"""A training job as SageMaker runs one: reads a channel, writes checkpoints, a model, metrics.

It learns which package of Python's standard library a passage of source text comes from: logistic
regression over hashed words, by gradient descent, in plain Python. Every epoch reads every file of
the channel, and the sum of their digests must be what the writer handed to the file system: one
wrong byte and the job fails. It is deterministic: the same data give the same model to the byte,
also when the job was stopped and resumed from a checkpoint.
"""

import array
import collections
import hashlib
import json
import math
import os
import random
import re
import signal
import sys
import tempfile
import time
import zlib

import dataset

BASE = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")
CONFIG = os.path.join(BASE, "input/config")
TRAIN = os.environ.get("SM_CHANNEL_TRAIN", os.path.join(BASE, "input/data/train"))
VALIDATION = os.path.join(os.path.dirname(TRAIN), "validation")
MODEL = os.environ.get("SM_MODEL_DIR", os.path.join(BASE, "model"))
OUTPUT = os.environ.get("SM_OUTPUT_DATA_DIR", os.path.join(BASE, "output/data"))
FAILURE = os.path.join(BASE, "output/failure")
CHECKPOINTS = os.path.join(BASE, "checkpoints")

BUCKETS = 1 << 13
WORD = re.compile(rb"[A-Za-z_]{3,}")
WORDS_MAX = 160
RATE = 0.1
READ_BYTES = 1 << 20
CHECKPOINTS_AN_EPOCH = 4
STOPPED = 143  # 128 + SIGTERM

stop_asked = False


class Failure(Exception):
    """Why the job fails; goes to `output/failure`, as the platform's contract wants it."""


def write_durably(path, content):
    """Writes beside the file, syncs, renames, syncs the folder: old or new, never half."""
    folder = os.path.dirname(path)
    partial = path + ".partial"
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, path)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_data(hyperparameters):
    """Puts configuration and channels where the platform's agent puts them before the start."""
    os.makedirs(CONFIG, exist_ok=True)
    size = int(os.environ.get("JOB_TRAIN_BYTES", dataset.TRAIN_BYTES))
    written = {
        "train": dataset.write_channel(TRAIN, "train", size),
        "validation": dataset.write_channel(VALIDATION, "validation"),
    }
    written["labels"] = [label for label, _, _ in dataset.corpus()]
    write_durably(os.path.join(CONFIG, "hyperparameters.json"), json_bytes(hyperparameters))
    write_durably(os.path.join(CONFIG, "written.json"), json_bytes(written))


def json_bytes(value):
    """Indented JSON, the same for the same value."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def read_json(name):
    """A file of the configuration folder."""
    with open(os.path.join(CONFIG, name), encoding="utf-8") as file:
        return json.load(file)


class Reader:
    """Reads files of a channel and counts what it read and how long the reads took.

    The kernel's copy of a file is dropped first: the job has just written the channel, and would
    get it back from memory without one read of the file system.
    """

    def __init__(self):
        self.bytes = 0
        self.seconds = 0.0

    def read(self, path):
        """The whole file."""
        began = time.perf_counter()
        parts = []
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while part := file.read(READ_BYTES):
                parts.append(part)
        content = b"".join(parts)
        self.seconds += time.perf_counter() - began
        self.bytes += len(content)
        return content


class Model:
    """Logistic regression with one row of weights a hashed word, one column a label."""

    def __init__(self, labels):
        self.labels = labels
        self.index = {label: at for at, label in enumerate(labels)}
        self.rows = [[0.0] * len(labels) for _ in range(BUCKETS)]
        self.buckets = {}

    def features(self, passage):
        """Buckets of the different words of a passage, in an order that is always the same."""
        words = dict.fromkeys(WORD.findall(passage)[:WORDS_MAX])
        buckets = self.buckets
        for word in words:
            if word not in buckets:
                buckets[word] = zlib.crc32(word) % BUCKETS
        return list(dict.fromkeys(map(buckets.__getitem__, words)))

    def probabilities(self, features):
        """How likely each label is."""
        scale = 1 / math.sqrt(len(features))
        scores = [sum(column) * scale for column in zip(*map(self.rows.__getitem__, features))]
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def learn(self, features, label, rate):
        """One step of gradient descent; returns the loss before it and whether it was right."""
        likely = self.probabilities(features)
        right = likely[label] == max(likely)
        loss = -math.log(max(likely[label], 1e-12))
        step = rate / math.sqrt(len(features))
        moves = [step * -chance for chance in likely]
        moves[label] += step
        if likely[label] < 0.999:
            rows = self.rows
            for bucket in features:
                rows[bucket] = [weight + move for weight, move in zip(rows[bucket], moves)]
        return loss, right

    def to_bytes(self):
        """All weights, row by row, as 64-bit floating point numbers."""
        flat = array.array("d")
        for row in self.rows:
            flat.extend(row)
        return flat.tobytes()

    def set_bytes(self, content):
        """The inverse of `to_bytes`."""
        flat = array.array("d")
        flat.frombytes(content)
        count = len(self.labels)
        if len(flat) != BUCKETS * count:
            raise Failure(f"checkpoint holds {len(flat)} weights, wanted {BUCKETS * count}")
        self.rows = [flat[at : at + count].tolist() for at in range(0, len(flat), count)]


def examples(content):
    """The label and the passages of a document; what identifies the label is not among them."""
    head, *passages = content.split(dataset.SEPARATOR)
    label = head.removeprefix(b"label: ").strip().decode()
    return label, [passage for passage in passages if not passage.startswith(b"MARKER: ")]


def save_checkpoint(model, state):
    """State as one line of JSON, its weights, and the digest of both."""
    content = json.dumps(state, sort_keys=True).encode() + b"\n" + model.to_bytes()
    digest = hashlib.sha256(content).digest()
    write_durably(os.path.join(CHECKPOINTS, "checkpoint.bin"), digest + content)


def load_checkpoint(model):
    """The state to go on from, or None."""
    try:
        with open(os.path.join(CHECKPOINTS, "checkpoint.bin"), "rb") as file:
            digest, content = file.read(32), file.read()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content).digest() != digest:
        raise Failure("checkpoint.bin is not what was written: its digest differs")
    line, weights = content.split(b"\n", 1)
    model.set_bytes(weights)
    return json.loads(line)


def train_epoch(model, state, names, reader):
    """The rest of one epoch, from file `state["position"]` on; saves checkpoints on the way."""
    order = list(names)
    random.Random(f"{dataset.SEED} epoch {state['epoch']}").shuffle(order)
    every = max(1, len(order) // CHECKPOINTS_AN_EPOCH)
    rate = RATE / (1 + state["epoch"])
    while state["position"] < len(order):
        name = order[state["position"]]
        content = reader.read(os.path.join(TRAIN, name))
        digest = dataset.file_digest(name, content)
        state["digest"] = f"{dataset.add_digests(int(state['digest'], 16), digest):064x}"
        label, passages = examples(content)
        for passage in passages:
            features = model.features(passage)
            if features:
                loss, right = model.learn(features, model.index[label], rate)
                state["loss"] += loss
                state["right"] += right
                state["examples"] += 1
        state["position"] += 1
        if stop_asked or state["position"] % every == 0:
            save_checkpoint(model, state)
        if stop_asked:
            sys.exit(STOPPED)


def validate(model):
    """Share of held-out passages whose label the model finds, and the pair of labels that it most
    often mixes up. Mistakes are spooled to a scratch file under TMPDIR."""
    reader, right, count = Reader(), 0, 0
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8") as scratch:
        for name in sorted(os.listdir(VALIDATION)):
            label, passages = examples(reader.read(os.path.join(VALIDATION, name)))
            for features in filter(None, map(model.features, passages)):
                likely = model.probabilities(features)
                guess = model.labels[likely.index(max(likely))]
                right += guess == label
                count += 1
                if guess != label:
                    scratch.write(f"{label} taken for {guess}\n")
        scratch.seek(0)
        mistakes = collections.Counter(line.rstrip("\n") for line in scratch)
    if sum(mistakes.values()) != count - right:
        raise Failure(f"scratch file gave back {sum(mistakes.values())} of {count - right} lines")
    worst = min(mistakes, key=lambda mistake: (-mistakes[mistake], mistake), default="none")
    return right / count, worst


def finish_epoch(model, state, reader, written):
    """Checks what the epoch read, says how it went, and makes the state ready for the next."""
    if state["digest"] != written["digest"]:
        raise Failure(
            f"epoch {state['epoch'] + 1} read other bytes than were written: digest of the "
            f"channel {state['digest']}, wanted {written['digest']}"
        )
    held_out, worst = validate(model)
    line = {
        "epoch": state["epoch"] + 1,
        "loss": round(state["loss"] / state["examples"], 6),
        "accuracy": round(state["right"] / state["examples"], 6),
        "validation_accuracy": round(held_out, 6),
        "most_often_mistaken": worst,
    }
    state["history"].append(line)
    print(
        f"epoch {line['epoch']}: loss {line['loss']:.4f}, accuracy {line['accuracy']:.4f}, "
        f"held-out accuracy {line['validation_accuracy']:.4f}, {state['examples']} examples; "
        f"read {reader.bytes / 1e6:.1f} MB in {reader.seconds:.2f} s "
        f"({reader.bytes / 1e6 / max(reader.seconds, 1e-9):.0f} MB/s), bytes as written",
        flush=True,
    )
    state.update(new_state(), epoch=state["epoch"] + 1, history=state["history"])
    save_checkpoint(model, state)


def new_state():
    """Where a job begins."""
    return {
        "epoch": 0,
        "position": 0,
        "digest": f"{0:064x}",
        "loss": 0.0,
        "right": 0,
        "examples": 0,
        "history": [],
    }


def save_results(model, history, reader, began, written):
    """The model and the metrics; returns the metrics."""
    weights = {str(at): row for at, row in enumerate(model.rows) if any(row)}
    content = json_bytes(
        {
            "class_labels": model.labels,
            "hashed_word_buckets": BUCKETS,
            "hashed_word_weights": {
                at: [round(weight, 4) for weight in row] for at, row in weights.items()
            },
        }
    )
    write_durably(os.path.join(MODEL, "model.json"), content)
    metrics = {
        "training_history": history,
        "files": written["files"],
        "bytes": written["bytes"],
        "mb": round(written["bytes"] / 1e6, 1),
        "epochs": len(history),
        "read_mb": round(reader.bytes / 1e6, 1),
        "read_mb_per_s": round(reader.bytes / 1e6 / max(reader.seconds, 1e-9), 1),
        "seconds": round(time.monotonic() - began, 1),
        "model_sha256": hashlib.sha256(content).hexdigest(),
    }
    write_durably(os.path.join(OUTPUT, "metrics.json"), json_bytes(metrics))
    return metrics


def train():
    """The whole job."""
    began = time.monotonic()
    for folder in (MODEL, OUTPUT, CHECKPOINTS):
        os.makedirs(folder, exist_ok=True)
    if not os.path.exists(os.path.join(CONFIG, "written.json")):
        make_data({"epochs": os.environ.get("JOB_EPOCHS", "3")})
        print(f"data made in {time.monotonic() - began:.1f} s: {TRAIN}", flush=True)
    labels, written = read_json("written.json")["labels"], read_json("written.json")["train"]
    epochs = int(read_json("hyperparameters.json")["epochs"])
    names = sorted(os.listdir(TRAIN))
    if len(names) != written["files"]:
        raise Failure(f"{TRAIN} lists {len(names)} files, {written['files']} were written")
    model = Model(labels)
    state = load_checkpoint(model) or new_state()
    if state["position"] or state["epoch"]:
        print(f"resumed at epoch {state['epoch'] + 1}, file {state['position'] + 1}", flush=True)
    total = Reader()
    while state["epoch"] < epochs:
        reader = Reader()
        train_epoch(model, state, names, reader)
        finish_epoch(model, state, reader, written)
        total.bytes += reader.bytes
        total.seconds += reader.seconds
    metrics = save_results(model, state["history"], total, began, written)
    del metrics["training_history"]
    print("job: " + json.dumps(metrics), flush=True)


def ask_to_stop(_signal, _frame):
    """A stopped job saves a checkpoint after the file it is at and ends."""
    global stop_asked
    stop_asked = True


def main():
    """Runs the job; what goes wrong is left where the platform looks for it."""
    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    try:
        train()
    except Exception as error:
        os.makedirs(os.path.dirname(FAILURE), exist_ok=True)
        with open(FAILURE, "w", encoding="utf-8") as file:
            file.write(f"{type(error).__name__}: {error}"[:1024])
        if isinstance(error, Failure):
            sys.exit(f"train: {error}")
        raise


if __name__ == "__main__":
    main()
