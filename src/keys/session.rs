//! The environment as the AWS SDK reads it: region, endpoint, profile, proxy, credentials.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::{Credentials, ProvideCredentials};
use aws_types::service_config::ServiceConfigKey;

use crate::keys::exchange::{Service, watched};
use crate::keys::kms_error::{KmsFailure, causes, of_credentials};
use crate::keys::notes::KmsNotes;

/// Finding region and credentials, which may ask a metadata service or STS.
const WAIT: Duration = Duration::from_secs(10);

/// Why nothing can be asked of AWS.
#[derive(Debug)]
pub struct NoSession {
    /// The cause.
    pub failure: KmsFailure,
    /// The code of STS's answer, if it gave one.
    pub code: Option<String>,
    /// What was found, without secrets.
    pub found: String,
}

/// What is needed to ask AWS for something other than a key.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whatever is sent by it is looked at first, as for keys; its credentials renew themselves.
    pub config: SdkConfig,
    /// Whether an endpoint is named that is not AWS's own.
    pub has_endpoint: bool,
}

/// Region and credentials, the former by `region` if that is known. They are looked for here, apart
/// from a call, so that it is clear which of the two failed.
pub(super) async fn find(
    region: Option<&str>,
    notes: &KmsNotes,
) -> Result<(SdkConfig, Credentials), NoSession> {
    let plain = |failure, found: &str| NoSession { failure, code: None, found: found.to_owned() };
    let find = async {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        loader = loader.http_client(watched(notes));
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        let shared = loader.load().await;
        let Some(region) = shared.region() else {
            return Err(plain(KmsFailure::NoRegion, "no region is set"));
        };
        notes.note_region(region.as_ref());
        let provider = shared.credentials_provider();
        let odd = || plain(KmsFailure::Other, "the SDK has no credentials chain");
        let provider = provider.ok_or_else(odd)?;
        let credentials = provider.provide_credentials().await;
        let credentials = credentials.map_err(|error| none(notes, &causes(&error)))?;
        notes.note_credentials(&credentials);
        Ok((shared, credentials))
    };
    match tokio::time::timeout(WAIT, find).await {
        Ok(found) => found,
        Err(_) => Err(none(notes, &format!("nothing found in {WAIT:?}"))),
    }
}

/// Why there are no credentials: what STS said, if it was asked.
fn none(notes: &KmsNotes, found: &str) -> NoSession {
    if let Some(why) = notes.refused() {
        let (failure, found) = (KmsFailure::PlainHttp, why.to_owned());
        return NoSession { failure, code: None, found };
    }
    let asked = notes.last_exchange().filter(|last| last.service == Service::Sts);
    let (failure, code) = of_credentials(asked.as_ref(), found);
    let found = match &asked {
        Some(sts) => format!("sts:{} at {}: {found}", sts.operation, sts.endpoint),
        None => found.to_owned(),
    };
    NoSession { failure, code, found }
}

/// A session with S3, for a region and credentials that the environment has.
///
/// # Errors
/// It has none.
pub async fn session(notes: &KmsNotes) -> Result<Session, NoSession> {
    let (config, _) = find(None, notes).await?;
    let key = ServiceConfigKey::builder();
    let key = key.service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    let of_service = config.service_config().zip(key.ok());
    let of_service = of_service.and_then(|(found, key)| found.load_config(key));
    let has_endpoint = of_service.is_some() || config.endpoint_url().is_some();
    Ok(Session { config, has_endpoint })
}
