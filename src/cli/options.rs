//! The words after `-o`, as in fstab(5).

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
    /// `writeback_cache`, `nowriteback_cache`.
    pub(in crate::cli) write_back: Option<bool>,
}

const KNOWN: &str = "ro, rw, allow_other, noallow_other, default_permissions, \
                     nodefault_permissions, nonempty, suid, nosuid, dev, nodev, writeback_cache, \
                     nowriteback_cache; without a meaning here, but allowed: defaults, \
                     _netdev, nofail, auto, noauto, user, nouser, users, x-...";

impl MountWords {
    /// A later word wins over an earlier one.
    pub(in crate::cli) fn parse(words: &[String]) -> Result<Self, String> {
        let mut found = Self::default();
        for word in words {
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
                "writeback_cache" => found.write_back = Some(true),
                "nowriteback_cache" => found.write_back = Some(false),
                // For mount(8) and init systems. Here `defaults` leaves set-id and devices off.
                "" | "defaults" | "_netdev" | "nofail" | "auto" | "noauto" | "user" | "nouser"
                | "users" => {}
                word if word.starts_with("x-") => {}
                word => return Err(format!("-o {word}: no such option; known are {KNOWN}")),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountWords, String> {
        let words: Vec<String> = text.split(',').map(str::to_owned).collect();
        MountWords::parse(&words)
    }

    #[test]
    fn the_last_word_wins_and_fstab_words_are_allowed() {
        let found = parse("defaults,_netdev,ro,rw,noallow_other,x-systemd.automount").unwrap();
        assert_eq!(found.read_only, Some(false));
        assert_eq!(found.allow_other, Some(false));
        assert_eq!(found.nonempty, None);
        let found = parse("suid,nosuid,dev,writeback_cache").unwrap();
        assert_eq!((found.set_id, found.devices), (Some(false), Some(true)));
        assert_eq!(found.write_back, Some(true));
    }

    #[test]
    fn unknown_words_are_named_with_the_known_ones() {
        let error = parse("ro,alow_other").unwrap_err();
        assert!(error.contains("alow_other") && error.contains("noallow_other"), "{error}");
    }
}
