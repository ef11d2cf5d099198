//! Every request that the AWS SDK sends, to whichever service: judged by its address before it goes
//! out, and noted with what identifies it in CloudTrail. Bodies and signatures are not looked at,
//! but for the name of the operation.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use crate::format::utc::Utc;
use crate::keys::address;
use crate::keys::notes::KmsNotes;

/// Who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Kms,
    SecretsManager,
    Sts,
}

impl Service {
    /// As CloudTrail names it.
    pub(super) fn event_source(self) -> &'static str {
        match self {
            Self::Kms => "kms.amazonaws.com",
            Self::SecretsManager => "secretsmanager.amazonaws.com",
            Self::Sts => "sts.amazonaws.com",
        }
    }
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) service: Service,
    /// `Decrypt`, `AssumeRole`.
    pub(super) operation: String,
    /// Scheme, host and path, without a user.
    pub(super) endpoint: String,
    pub(super) at: SystemTime,
    /// `None` without an answer.
    pub(super) took: Option<Duration>,
    /// HTTP status; `None` without an answer.
    pub(super) status: Option<u16>,
    /// As the answer names the request.
    pub(super) request_id: Option<String>,
}

impl Exchange {
    /// When it was sent, as CloudTrail writes it.
    pub(super) fn event_time(&self) -> String {
        let since = self.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Utc::from_unix_s(since).to_string().replacen(' ', "T", 1)
    }
}

/// The SDK's own client, as its defaults have it, with [`KmsNotes`] looking at each request.
pub(super) fn watched(notes: &KmsNotes) -> SharedHttpClient {
    let inner = Builder::new().build_with_connector_fn(|settings, components| {
        let mut builder =
            ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.set_proxy_config(Some(ProxyConfig::from_env()));
        builder.build()
    });
    SharedHttpClient::new(Watched { inner, notes: notes.clone() })
}

#[derive(Clone)]
struct Watched<T> {
    inner: T,
    notes: KmsNotes,
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched(..)")
    }
}

impl HttpClient for Watched<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(Watched { inner, notes: self.notes.clone() })
    }
}

impl HttpConnector for Watched<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (service, operation) = named(&request).unzip();
        let endpoint = request.uri().split('?').next().unwrap_or_default();
        let endpoint = address::without_users(endpoint);
        let of_machine = service.is_none() && address::is_metadata(&endpoint);
        if !of_machine && let Some(why) = self.notes.refuse(&endpoint) {
            return HttpConnectorFuture::ready(Err(ConnectorError::user(why.into())));
        }
        if matches!(service, Some(Service::Kms | Service::SecretsManager)) {
            self.notes.note_endpoint(&endpoint);
        }
        let (notes, began, at) = (self.notes.clone(), Instant::now(), SystemTime::now());
        let exchange = service.zip(operation).map(|(service, operation)| Exchange {
            service,
            operation,
            endpoint,
            at,
            took: None,
            status: None,
            request_id: None,
        });
        let noted = exchange.map(|exchange| notes.begin_exchange(exchange));
        let answering = self.inner.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answering.await;
            if let (Some(number), Ok(answer)) = (noted, &answer) {
                let id = answer.headers().get("x-amzn-requestid").map(str::to_owned);
                notes.end_exchange(number, answer.status().as_u16(), id, began.elapsed());
                if let Some(date) = answer.headers().get("date") {
                    notes.note_date(date);
                }
            }
            answer
        })
    }
}

/// Service and operation of a request that CloudTrail would have.
fn named(request: &HttpRequest) -> Option<(Service, String)> {
    if let Some(target) = request.headers().get("x-amz-target") {
        let (service, operation) = target.split_once('.')?;
        let service = match service {
            "TrentService" => Service::Kms,
            "secretsmanager" => Service::SecretsManager,
            _ => return None,
        };
        return Some((service, operation.to_owned()));
    }
    let body = std::str::from_utf8(request.body().bytes()?).ok()?;
    let is_sts = body.contains("Version=2011-06-15");
    let action = body.split('&').find_map(|pair| pair.strip_prefix("Action="))?;
    is_sts.then(|| (Service::Sts, action.to_owned()))
}
