//! The words after `-o`, as in fstab(5).

use std::ffi::OsString;

use clap::Parser;

use crate::cli::args::{Arguments, Verb};

/// What they say; `None`: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct MountWords {
    /// `ro`, `rw`.
    pub(in crate::cli) read_only: Option<bool>,
    /// `allow_other`, `noallow_other`.
    pub(in crate::cli) allow_other: Option<bool>,
    /// `default_permissions`, `nodefault_permissions`.
    pub(in crate::cli) default_permissions: Option<bool>,
    /// `nonempty`.
    pub(in crate::cli) nonempty: Option<bool>,
    /// `suid`, `nosuid`.
    pub(in crate::cli) set_id: Option<bool>,
    /// `dev`, `nodev`.
    pub(in crate::cli) devices: Option<bool>,
    /// `exec`, `noexec`.
    pub(in crate::cli) programs: Option<bool>,
    /// `writeback_cache`, `nowriteback_cache`.
    pub(in crate::cli) write_back: Option<bool>,
}

const KNOWN: &str = "ro, rw, allow_other, noallow_other, default_permissions, \
                     nodefault_permissions, nonempty, suid, nosuid, dev, nodev, exec, noexec, \
                     writeback_cache, nowriteback_cache; as the flags of these names key=SOURCE, \
                     cache_size=, threads=, open_dirs=, durability=, key_recheck=, \
                     key_max_offline=, log_file=, log_format=, slow_op=, metrics=, \
                     allow_plain_http; without a meaning here, but allowed: defaults, _netdev, \
                     nofail, auto, noauto, user, nouser, users, group, owner, async, atime, \
                     noatime, diratime, nodiratime, relatime, comment=, x-..., X-...; with \
                     sloppy every other one too";

/// Options that are flags of the command line too: a line of fstab(5) has no other place for them.
const FLAGS: &[(&str, &str)] = &[
    ("key=", "--key"),
    ("cache_size=", "--cache-size"),
    ("threads=", "--threads"),
    ("open_dirs=", "--open-dirs"),
    ("durability=", "--durability"),
    ("key_recheck=", "--key-recheck"),
    ("key_max_offline=", "--key-max-offline"),
    ("log_file=", "--log-file"),
    ("log_format=", "--log-format"),
    ("slow_op=", "--slow-op"),
    ("metrics=", "--metrics"),
    ("allow_plain_http", "--allow-plain-http"),
];

/// For mount(8) and init systems, which have acted on them. Access times are those of the disk
/// below. Here `defaults` leaves set-id and devices off.
const FOR_OTHERS: &[&str] = &[
    "",
    "defaults",
    "_netdev",
    "nofail",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "group",
    "owner",
    "async",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
];
const FOR_OTHERS_BEGIN: &[&str] = &["x-", "X-", "user=", "comment="];

/// Lets what it does not know pass, as `-s` of mount(8).
const SLOPPY: &str = "sloppy";

impl MountWords {
    /// A later word wins over an earlier one. `texts` are what stands after each `-o`.
    pub(in crate::cli) fn parse(texts: &[String]) -> Result<Self, String> {
        let words = split(texts)?;
        let sloppy = words.iter().any(|word| word == SLOPPY);
        let mut found = Self::default();
        for word in &words {
            match word.as_str() {
                "ro" => found.read_only = Some(true),
                "rw" => found.read_only = Some(false),
                "allow_other" => found.allow_other = Some(true),
                "noallow_other" => found.allow_other = Some(false),
                "default_permissions" => found.default_permissions = Some(true),
                "nodefault_permissions" => found.default_permissions = Some(false),
                "nonempty" => found.nonempty = Some(true),
                "suid" => found.set_id = Some(true),
                "nosuid" => found.set_id = Some(false),
                "dev" => found.devices = Some(true),
                "nodev" => found.devices = Some(false),
                "exec" => found.programs = Some(true),
                "noexec" => found.programs = Some(false),
                "writeback_cache" => found.write_back = Some(true),
                "nowriteback_cache" => found.write_back = Some(false),
                "remount" => {
                    return Err("-o remount: a mount keeps its options; unmount it and mount it \
                                again with others"
                        .to_owned());
                }
                SLOPPY => {}
                word if is_for_others(word) || flag(word).is_some() => {}
                word if sloppy => tracing::warn!("-o {word}: no such option, left out"),
                word => return Err(format!("-o {word}: no such option; known are {KNOWN}")),
            }
        }
        Ok(found)
    }
}

fn is_for_others(word: &str) -> bool {
    FOR_OTHERS.contains(&word) || FOR_OTHERS_BEGIN.iter().any(|begin| word.starts_with(begin))
}

/// The flag that a word stands for.
fn flag(word: &str) -> Option<OsString> {
    FLAGS.iter().find_map(|(name, flag)| match name.ends_with('=') {
        true => word.strip_prefix(name).map(|value| format!("{flag}={value}").into()),
        false => (word == *name).then(|| flag.into()),
    })
}

/// The words of comma-separated lists. In double quotes a comma is one, as with mount(8).
fn split(texts: &[String]) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for text in texts {
        let (mut word, mut quoted) = (String::new(), false);
        for character in text.chars() {
            match character {
                '"' => quoted = !quoted,
                ',' if !quoted => words.push(std::mem::take(&mut word)),
                character => word.push(character),
            }
        }
        if quoted {
            return Err(format!("-o {text}: the double quote is not closed"));
        }
        words.push(word);
    }
    Ok(words)
}

/// What was typed, where words after `-o` of `mount` that are flags stand as flags too, so that
/// both are read by one parser.
///
/// # Errors
/// The parser's.
pub(in crate::cli) fn parse(typed: &[OsString]) -> Result<Arguments, clap::Error> {
    let parsed = Arguments::try_parse_from(typed)?;
    let Verb::Mount(mount) = &parsed.verb else { return Ok(parsed) };
    // What can't be split is told of with the words.
    let words = split(&mount.words).unwrap_or_default();
    let flags: Vec<OsString> = words.iter().filter_map(|word| flag(word)).collect();
    // No flag that may stand before a verb takes this word for its value.
    let verb = typed.iter().position(|word| word == "mount");
    let Some(verb) = verb.filter(|_| !flags.is_empty()) else { return Ok(parsed) };
    let (before, after) = typed.split_at(verb + 1);
    Arguments::try_parse_from(before.iter().chain(&flags).chain(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<MountWords, String> {
        MountWords::parse(&[text.to_owned()])
    }

    fn typed(line: &str) -> Result<crate::cli::args::MountArgs, String> {
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        match parse(&line).map_err(|error| error.to_string())?.verb {
            Verb::Mount(mount) => Ok(mount),
            verb => panic!("{verb:?}"),
        }
    }

    #[test]
    fn the_last_word_wins_and_fstab_words_are_allowed() {
        let found = words("defaults,_netdev,ro,rw,noallow_other,x-systemd.automount").unwrap();
        assert_eq!(found.read_only, Some(false));
        assert_eq!(found.allow_other, Some(false));
        assert_eq!(found.nonempty, None);
        let found = words("suid,nosuid,dev,writeback_cache,noexec").unwrap();
        assert_eq!((found.set_id, found.devices), (Some(false), Some(true)));
        assert_eq!((found.write_back, found.programs), (Some(true), Some(false)));
        let ignored = "nofail,noatime,relatime,user=me,X-mount.mkdir,comment=a b,async";
        assert_eq!(words(ignored).unwrap(), MountWords::default());
    }

    #[test]
    fn unknown_words_are_named_with_the_known_ones() {
        let error = words("ro,alow_other").unwrap_err();
        assert!(error.contains("alow_other") && error.contains("noallow_other"), "{error}");
        // A promise that would not be kept.
        for word in ["sync", "dirsync", "strictatime", "keys=local", "key"] {
            assert!(words(word).unwrap_err().contains("no such option"), "{word}");
        }
        assert!(words("remount,ro").unwrap_err().contains("unmount it"));
        assert_eq!(words("sync,ro,sloppy").unwrap().read_only, Some(true));
    }

    #[test]
    fn words_that_are_flags_are_read_as_flags() {
        let mount = "cmkfs -v mount store mnt -o ro,key=kms:alias/x,durability=relaxed,threads=3";
        let mount = typed(mount).unwrap();
        assert_eq!(mount.key.as_deref(), Some("kms:alias/x"));
        assert_eq!(mount.tuning.threads.map(usize::from), Some(3));
        assert!(mount.tuning.durability.is_some());
        assert_eq!(mount.words().unwrap().read_only, Some(true));
        let quoted = typed("cmkfs mount -o nonempty,key=\"file:/a,b\" -o ro -- mount mnt").unwrap();
        assert_eq!(quoted.key.as_deref(), Some("file:/a,b"));
        assert_eq!(quoted.store.as_deref(), Some(std::path::Path::new("mount")));
        assert_eq!(quoted.words().unwrap().nonempty, Some(true));
    }

    #[test]
    fn what_a_flag_refuses_is_refused_after_o_too() {
        let both = typed("cmkfs mount store mnt --key local -o key=transient").unwrap_err();
        assert!(both.contains("--key") && both.contains("multiple times"), "{both}");
        let bad = typed("cmkfs mount store mnt -o cache_size=1M").unwrap_err();
        assert!(bad.contains("1M") && bad.contains("too little"), "{bad}");
        let open = typed("cmkfs mount store mnt -o key=\"local").unwrap();
        assert!(open.words().unwrap_err().contains("not closed"));
    }
}
