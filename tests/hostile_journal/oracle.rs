//! What recovery has to make of some of a journal's records, by the rules of FORMAT.md, section 14.

use std::collections::BTreeMap;

use cmkfs::format::journal::RecordKind;

use crate::lab::{Image, Lab, Seen, Tree};

/// A whole record as it lies in a segment.
#[derive(Clone, Debug)]
pub(crate) struct Rec {
    pub(crate) segment: usize,
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) kind: RecordKind,
    pub(crate) ino: u64,
    pub(crate) generation: u64,
    pub(crate) base: u64,
    /// Ranges that had their bytes already.
    pub(crate) placed: usize,
    /// Bytes of the plaintext, and where they go.
    pub(crate) written: Vec<(usize, Vec<u8>)>,
}

/// Puts bytes into a content, which gets longer by that if it has to.
pub(crate) fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    content.resize(content.len().max(at + bytes.len()), 0);
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Lab {
    /// What is to be read where of an image's records these count. `place` is what is in place.
    pub(crate) fn recovered<'a>(
        &self,
        place: &BTreeMap<String, Vec<u8>>,
        records: impl Iterator<Item = &'a Rec> + Clone,
    ) -> Tree {
        let recover = |(name, content): (&String, &Vec<u8>)| {
            let (mut born, mut steps) = (false, Vec::<&Rec>::new());
            let mut told = Vec::<&Rec>::new();
            for record in records.clone().filter(|record| self.names[&record.ino] == *name) {
                let leads_on = steps.last().is_none_or(|last| last.generation == record.base);
                match record.kind {
                    RecordKind::Fresh => steps.clear(),
                    RecordKind::Change if leads_on => steps.push(record),
                    RecordKind::Change | RecordKind::Anew => steps = vec![record],
                    RecordKind::Settled => {}
                    RecordKind::Written => {
                        told.retain(|before| before.segment == record.segment);
                        told.push(record);
                        continue;
                    }
                }
                born = record.kind == RecordKind::Fresh;
                told.clear();
            }
            let mut generation = self.generation(name, content);
            let mut read = content.clone();
            if let (Some(first), Some(last)) = (steps.first(), steps.last())
                && !born
                && generation <= last.generation
                && (first.kind == RecordKind::Anew || first.base <= generation)
            {
                generation = last.generation;
                read.clone_from(&self.contents[&(name.clone(), generation)]);
            }
            for record in told.iter().filter(|record| record.generation == generation) {
                record.written.iter().for_each(|(at, bytes)| put(&mut read, *at, bytes));
            }
            (name.clone(), Seen::Bytes(read))
        };
        place.iter().map(recover).collect()
    }

    /// 0 for a content that no change of the journal leads from or to.
    fn generation(&self, name: &str, content: &[u8]) -> u64 {
        let same = |((known, _), version): &(&(String, u64), &Vec<u8>)| {
            known == name && &version[..] == content
        };
        self.contents.iter().filter(same).map(|((_, generation), _)| *generation).max().unwrap_or(0)
    }

    /// An image with the journal that it has, and the stored files of an older one but for some.
    pub(crate) fn with_contents_of(&self, image: &Image, older: &Image, but: &[&str]) -> Image {
        let mut mixed = image.clone();
        for (ino, name) in &self.names {
            if let Some(content) = older.place.get(name).filter(|_| !but.contains(&&name[..])) {
                mixed.disk.objects.insert(*ino, older.disk.objects[ino].clone());
                mixed.place.insert(name.clone(), content.clone());
            }
        }
        mixed
    }
}
