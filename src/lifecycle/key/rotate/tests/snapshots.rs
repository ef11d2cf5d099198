//! Snapshots of a volume whose keys were rotated, or are being rotated.

use super::*;

impl Lab {
    fn place(&self) -> snapshot::Place {
        snapshot::Place::Directory(self.at("target"))
    }

    pub(super) fn snapshot(&self) -> snapshot::Created {
        let moving = snapshot::Moving::default();
        snapshot::create(&self.at("store"), &self.place(), None, &moving).unwrap()
    }

    pub(super) fn verify(&self, made: &snapshot::Created) {
        let id = Some(made.clear.id.as_str());
        let moving = snapshot::Moving::default();
        let (_, verified) = snapshot::verify(&self.place(), id, 100, None, &moving).unwrap();
        assert_eq!(verified.faults, [""; 0]);
    }

    pub(super) fn restore(&self, made: &snapshot::Created, store: &str) {
        let (id, moving) = (Some(made.clear.id.clone()), snapshot::Moving::default());
        let wanted = snapshot::Wanted { id, path: None };
        snapshot::restore(&self.place(), &self.at(store), &wanted, None, &moving).unwrap();
    }

    fn prune(&self, count: usize) -> snapshot::Pruned {
        let keep = snapshot::Keep { count: Some(count), age: None };
        let moving = snapshot::Moving::default();
        snapshot::prune(&self.place(), None, keep, true, None, &moving).unwrap()
    }
}

#[test]
fn a_snapshot_of_before_is_restored_with_its_own_keys() {
    let lab = Lab::new();
    lab.fill();
    let first = lab.snapshot();
    lab.rotate(None).unwrap();
    // Nothing in the files is of the new epoch yet, but the list of them is.
    let rotated = lab.snapshot();
    assert_eq!(rotated.clear.parent.as_ref(), Some(&first.clear.id));
    assert_eq!((first.clear.epoch, rotated.clear.epoch), (Epoch(1), Epoch(2)));
    assert!(rotated.moved.sent_bytes < 64 << 10, "{:?}", rotated.moved);
    let options = RotateOptions { work: Some(Work::Rewrap), ..RotateOptions::default() };
    rotate(&lab.at("store"), &options, &mut |done| done.files < 2).unwrap();
    let half = lab.snapshot();
    lab.rotate(Some(Work::Rewrap)).unwrap();
    let rewrapped = lab.snapshot();
    // Headers, with what lies in them and beside them, but no run of the largest.
    assert!(rewrapped.moved.sent_bytes < 256 << 10, "{:?}", rewrapped.moved);
    let opened = lab.open("store");
    put(&opened.volume, "file-1", b"since then");
    drop(opened);
    let last = lab.snapshot();
    let count = LENGTHS.len() + 1;
    for (made, name) in [(&first, "one"), (&rotated, "two"), (&half, "half"), (&rewrapped, "three")]
    {
        lab.verify(made);
        let name = format!("store-{name}");
        lab.restore(made, &name);
        lab.holds(&name);
    }
    assert_eq!(lab.epochs("store-one"), vec![1; count]);
    assert_eq!(lab.epochs("store-two"), vec![1; count]);
    assert_eq!(lab.epochs("store-three"), vec![3; count]);
    let pending = lab.found("store-half").pending().unwrap();
    assert_eq!((pending.work, pending.epoch), (Work::Rewrap, Epoch(3)));
    let resumed = rotate(&lab.at("store-half"), &options, &mut |_| true).unwrap();
    assert!(resumed.resumed && resumed.files.unwrap().finished);
    assert_eq!(lab.epochs("store-half"), vec![3; count]);
    lab.holds("store-half");
    // What only those of before need goes.
    assert_eq!(lab.prune(1).kept, [&*last.clear.id]);
    lab.verify(&last);
    lab.restore(&last, "later");
    assert_eq!(lab.epochs("later"), vec![3; count]);
    drop(lab.open("later"));
}

/// Its next epoch has a number that another one had.
#[test]
fn a_volume_that_was_put_back_to_before_a_rotation_has_snapshots_beside_those_of_after() {
    let lab = Lab::new();
    lab.fill();
    let before = lab.snapshot();
    lab.rotate(Some(Work::Rewrap)).unwrap();
    let rotated = lab.snapshot();
    fs::rename(lab.at("store"), lab.at("lost")).unwrap();
    lab.restore(&before, "store");
    let back = lab.snapshot();
    lab.rotate(Some(Work::Reencrypt)).unwrap();
    let again = lab.snapshot();
    assert_eq!(again.clear.epoch, rotated.clear.epoch);
    for (kept, made) in [(4, &rotated), (3, &rotated), (2, &back), (1, &again)] {
        assert_eq!(lab.prune(kept).kept.len(), kept);
        lab.verify(made);
        lab.verify(&again);
    }
    lab.restore(&again, "restored");
    lab.holds("restored");
}
