//! Seconds since 1970 as a date, for names of snapshots and for people.

/// A point in time of the proleptic Gregorian calendar, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    /// Year, from 1970 on.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
    /// Second of the day.
    pub second: u64,
    /// Millisecond of the second.
    pub ms: u64,
}

impl Utc {
    /// From seconds since 1970.
    pub fn from_unix_s(unix_s: u64) -> Self {
        Self::from_unix_ms(unix_s.saturating_mul(1000))
    }

    /// From milliseconds since 1970.
    pub fn from_unix_ms(unix_ms: u64) -> Self {
        let (unix_s, ms) = (unix_ms / 1000, unix_ms % 1000);
        // Days since 0000-03-01, so that a leap day is the last of its year; 146097 days are 400
        // years (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let days = unix_s / 86_400 + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self { year: era * 400 + year + carry, month, day, second: unix_s % 86_400, ms }
    }

    /// As `20261121T094639.250Z`, which sorts as it passes.
    pub fn compact(self) -> String {
        let (hour, minute, second) = self.clock();
        let Self { year, month, day, ms, .. } = self;
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{ms:03}Z")
    }

    fn clock(self) -> (u64, u64, u64) {
        (self.second / 3600, self.second / 60 % 60, self.second % 60)
    }
}

/// As `2026-11-21 09:46:39Z`.
impl std::fmt::Display for Utc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hour, minute, second) = self.clock();
        let Self { year, month, day, .. } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (unix_s, text) in [
            (0, "19700101T000000.250Z"),
            (951_782_399, "20000228T235959.250Z"),
            (951_782_400, "20000229T000000.250Z"),
            (1_709_251_199, "20240229T235959.250Z"),
            (1_795_254_399, "20261121T094639.250Z"),
            (4_102_444_800, "21000101T000000.250Z"),
        ] {
            assert_eq!(Utc::from_unix_ms(unix_s * 1000 + 250).compact(), text);
        }
        assert_eq!(Utc::from_unix_s(1_795_254_399).to_string(), "2026-11-21 09:46:39Z");
    }
}
