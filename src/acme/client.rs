//! HTTPS to the CA: the system's roots or those of `ca`, a bound on every request, and the `Retry-After` of a refusal,
//! which the library keeps to itself.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::messages::causes;

/// Asks one CA, for one order.
#[derive(Clone)]
pub struct Client {
    hyper: Hyper<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    told: Arc<Mutex<Option<Duration>>>,
}

/// Why a request brought no answer of the CA's own.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the CA cannot be asked: {0}")]
    Unreachable(String),
    #[error("the CA does not answer within {0:?}")]
    Silent(Duration),
    #[error("something answers {0} in place of the CA")]
    Foreign(StatusCode),
}

impl Client {
    /// Trusts the certificates of the file `ca` instead of the system's, if there is one.
    ///
    /// # Errors
    /// When there is no certificate to trust.
    pub fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = match ca {
            Some(ca) => config.with_root_certificates(roots(ca)?),
            None => config.with_native_roots().context("this machine has no CA certificates")?,
        };
        let config = config.with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
        Ok(Client { hyper: Hyper::builder(TokioExecutor::new()).build(connector), told: Arc::default() })
    }

    /// How long the CA said to wait, in its last refusal.
    pub fn told(&self) -> Option<Duration> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Trouble> {
        // RFC 8555 §6.1: the client, then the library.
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(NAME));
        let answer = self.hyper.request(request).await.map_err(|error| Trouble::Unreachable(causes(&error)))?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, MOST_BYTES).collect().await;
        let body = body.map_err(|error| Trouble::Unreachable(causes(error.as_ref())))?.to_bytes();
        let refused = parts.status.is_client_error() || parts.status.is_server_error();
        if refused {
            let told = retry_after(&parts.headers, SystemTime::now());
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        }
        let kind = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        // RFC 8555 §6.7. The library would only say that it is no JSON.
        if refused && !kind.starts_with(b"application/problem+json") {
            return Err(Trouble::Foreign(parts.status));
        }
        Ok(BytesResponse { parts, body: Box::new(body) })
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asking = tokio::time::timeout(PATIENCE, self.clone().ask(request));
        Box::pin(async move {
            let answer = asking.await.unwrap_or(Err(Trouble::Silent(PATIENCE)));
            answer.map_err(|trouble| Error::Other(Box::new(trouble)))
        })
    }
}

fn roots(ca: &Path) -> anyhow::Result<RootCertStore> {
    let shown = ca.display();
    let read = CertificateDer::pem_file_iter(ca).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(read.with_context(|| format!("`ca: {shown}` cannot be read"))?);
    ensure!(added > 0, "`ca: {shown}` holds no certificate");
    Ok(roots)
}

/// A delay or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()),
    }
}

const NAME: &str = concat!("hopfall/", env!("CARGO_PKG_VERSION"), " instant-acme");
/// For one request and its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of an answer. A chain of certificates has a few thousand.
const MOST_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_delay_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ];
        for (value, expected) in cases {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
        }
    }
}
