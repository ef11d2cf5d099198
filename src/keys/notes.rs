//! What is learnt on the way to KMS and back, also of a call that fails: the SDK takes addresses
//! and credentials from several variables and files, and its errors do not name them.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_kms::config::Credentials;
use aws_sdk_kms::primitives::{DateTime, DateTimeFormat};

use crate::keys::address;
use crate::keys::exchange::Exchange;

/// How long credentials can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// They are a user's, until somebody revokes them.
    Lasting,
    /// They are a session's, whose end they do not tell.
    Session,
    /// Until then.
    Until(SystemTime),
}

/// What calls that share it found out. Clones are the same notes; the first call tells, so calls
/// for different keys have notes of their own.
#[derive(Clone, Debug, Default)]
pub struct KmsNotes(Arc<Notes>);

#[derive(Debug, Default)]
struct Notes {
    region: OnceLock<String>,
    credentials: OnceLock<Validity>,
    endpoint: OnceLock<String>,
    refused: OnceLock<String>,
    ahead_s: OnceLock<i64>,
    /// Requests that were not taken out yet, in order.
    exchanges: Mutex<Vec<Exchange>>,
}

impl KmsNotes {
    /// The region that was called, or would have been.
    pub fn region(&self) -> Option<&str> {
        self.0.region.get().map(String::as_str)
    }

    /// That there were credentials, and for how long.
    pub fn credentials(&self) -> Option<Validity> {
        self.0.credentials.get().copied()
    }

    /// The address that was called, or that was refused before anything went there.
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.get().map(String::as_str)
    }

    /// Seconds by which this machine's clock is ahead of the one that answered; negative: behind.
    /// `None` without an answer that tells its time.
    pub fn clock_ahead_s(&self) -> Option<i64> {
        self.0.ahead_s.get().copied()
    }

    /// Notes what other calls found out, as far as nothing is noted yet.
    pub(super) fn learn(&self, other: &Self) {
        fn first<T: Clone>(own: &OnceLock<T>, other: &OnceLock<T>) {
            if let Some(found) = other.get() {
                own.get_or_init(|| found.clone());
            }
        }
        first(&self.0.region, &other.0.region);
        first(&self.0.credentials, &other.0.credentials);
        first(&self.0.endpoint, &other.0.endpoint);
        first(&self.0.refused, &other.0.refused);
        first(&self.0.ahead_s, &other.0.ahead_s);
    }

    pub(super) fn note_region(&self, region: &str) {
        self.0.region.get_or_init(|| region.to_owned());
    }

    pub(super) fn note_credentials(&self, found: &Credentials) {
        self.0.credentials.get_or_init(|| match (found.expiry(), found.session_token()) {
            (Some(end), _) => Validity::Until(end),
            (None, Some(_)) => Validity::Session,
            (None, None) => Validity::Lasting,
        });
    }

    pub(super) fn note_endpoint(&self, url: &str) {
        self.0.endpoint.get_or_init(|| url.to_owned());
    }

    /// Why no request may go to an address, if so; noted then.
    pub(super) fn refuse(&self, url: &str) -> Option<&str> {
        let why = address::refusal(url)?;
        self.note_endpoint(url);
        Some(self.0.refused.get_or_init(|| why).as_str())
    }

    /// Why nothing was sent.
    pub(super) fn refused(&self) -> Option<&str> {
        self.0.refused.get().map(String::as_str)
    }

    pub(super) fn note_date(&self, date: &str) {
        if let Some(ahead) = ahead_s(date, SystemTime::now()) {
            self.0.ahead_s.get_or_init(|| ahead);
        }
    }

    fn exchanges(&self) -> MutexGuard<'_, Vec<Exchange>> {
        // Each change of what is in there is whole.
        self.0.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request goes out; returns its number.
    pub(super) fn begin_exchange(&self, exchange: Exchange) -> usize {
        let mut exchanges = self.exchanges();
        exchanges.push(exchange);
        exchanges.len() - 1
    }

    /// Its answer came.
    pub(super) fn end_exchange(
        &self,
        number: usize,
        status: u16,
        request_id: Option<String>,
        took: Duration,
    ) {
        if let Some(exchange) = self.exchanges().get_mut(number) {
            (exchange.status, exchange.request_id, exchange.took) =
                (Some(status), request_id, Some(took));
        }
    }

    pub(super) fn last_exchange(&self) -> Option<Exchange> {
        self.exchanges().last().cloned()
    }

    /// The requests so far; the next ones begin anew.
    pub(super) fn take_exchanges(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.exchanges())
    }
}

/// Seconds by which `local` is ahead of the time in a `Date` header.
fn ahead_s(date: &str, local: SystemTime) -> Option<i64> {
    let there = DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?.secs();
    Some(DateTime::from(local).secs().saturating_sub(there))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_clock_is_compared_with_the_answers_date() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(ahead_s(date, at(784_111_777)), Some(0));
        assert_eq!(ahead_s(date, at(784_111_777 + 90)), Some(90));
        assert_eq!(ahead_s(date, at(784_111_777 - 301)), Some(-301));
        for odd in ["", "yesterday", "Sun, 06 Nov 1994", "784111777", "Sun, 99 Nov 1994 08:49:37"] {
            assert_eq!(ahead_s(odd, at(0)), None, "{odd}");
        }
    }

    #[test]
    fn a_refused_address_is_noted_with_the_reason() {
        let notes = KmsNotes::default();
        assert_eq!(notes.refuse("http://127.0.0.1:1/"), None);
        assert_eq!((notes.endpoint(), notes.refused()), (None, None));
        assert!(notes.refuse("http://kms:8080/").is_some_and(|why| why.contains("to kms,")));
        assert_eq!(notes.endpoint(), Some("http://kms:8080/"));
        assert!(notes.refused().is_some());
    }
}
