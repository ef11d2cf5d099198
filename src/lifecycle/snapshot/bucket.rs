//! A bucket in S3 as a target of snapshots: how it is named, and the way there.

use std::error::Error;

use crate::keys::{KmsFailure, KmsNotes, NoSession, causes, session};
use crate::object::{Connect, S3, S3Failure, TargetError, Way};

/// Bytes of a key in S3, less what cmkfs puts behind a prefix.
const PREFIX_LEN_MAX: usize = 1024 - 128;

/// Bucket and prefix of what stands after `s3://`.
pub(in crate::lifecycle) fn parse(text: &str) -> Result<(String, String), String> {
    let refuse = |what: &str| Err(format!("s3://{text}: {what}"));
    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(fits) {
        return refuse("the name of a bucket has 3 to 63 lower case letters, digits, `.` and `-`");
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.contains(char::is_control);
    if !prefix.is_empty() && prefix.split('/').any(is_odd) {
        return refuse("a prefix has names with one `/` between them, and neither `.` nor `..`");
    }
    if prefix.len() > PREFIX_LEN_MAX {
        return refuse("the prefix is too long for a key in S3");
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

#[derive(Debug)]
struct Noted(KmsNotes);

impl Way for Noted {
    fn endpoint(&self) -> Option<String> {
        self.0.endpoint().map(str::to_owned)
    }

    fn refused(&self) -> Option<String> {
        self.0.refused().map(str::to_owned)
    }

    fn causes(&self, error: &dyn Error) -> String {
        causes(error)
    }
}

/// Finds region and credentials; asks nothing of S3.
pub(in crate::lifecycle) fn open(bucket: &str, prefix: &str) -> Result<S3, TargetError> {
    let notes = KmsNotes::default();
    let way = std::sync::Arc::new(Noted(notes.clone()));
    let connect: Connect = Box::new(move || {
        Box::pin(async move {
            let found = session(&notes).await;
            let found = found.map(|session| (session.config, session.has_endpoint));
            found.map_err(|NoSession { failure, found, .. }| (cause(failure), found))
        })
    });
    S3::open(bucket, prefix, way, connect)
}

/// Why there is no session, in the words for S3.
fn cause(failure: KmsFailure) -> S3Failure {
    match failure {
        KmsFailure::NoRegion => S3Failure::NoRegion,
        KmsFailure::NoCredentials => S3Failure::NoCredentials,
        KmsFailure::BadCredentials | KmsFailure::RoleDenied => S3Failure::BadCredentials,
        KmsFailure::Unreachable => S3Failure::Unreachable,
        KmsFailure::PlainHttp => S3Failure::PlainHttp,
        KmsFailure::Clock => S3Failure::Clock,
        KmsFailure::Untrusted => S3Failure::Untrusted,
        KmsFailure::Throttled => S3Failure::Throttled,
        KmsFailure::Denied => S3Failure::Denied,
        KmsFailure::Unusable
        | KmsFailure::Mismatch
        | KmsFailure::NotFound
        | KmsFailure::IncorrectKey
        | KmsFailure::Other => S3Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_with_a_prefix_or_without() {
        for (text, bucket, prefix) in [
            ("my-bucket", "my-bucket", ""),
            ("my.bucket/", "my.bucket", ""),
            ("abc/snapshots/team a/", "abc", "snapshots/team a"),
        ] {
            assert_eq!(parse(text).unwrap(), (bucket.to_owned(), prefix.to_owned()));
        }
        for (text, wanted) in [
            ("", "3 to 63"),
            ("ab/x", "3 to 63"),
            ("Bucket/x", "lower case"),
            ("arn:aws:s3:::b", "lower case"),
            ("abc//x", "one `/`"),
            ("abc/x//", "one `/`"),
            ("abc/../x", "`..`"),
            ("abc/a\nb", "names"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(wanted), "{refused}");
        }
    }
}
