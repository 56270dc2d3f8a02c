//! The way to the collector: the library's exporter over the library's hyper client, by the system's CAs where it is https.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use async_trait::async_trait;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use opentelemetry_sdk::trace::SpanExporter as _;
use rustls::{ClientConfig, RootCertStore};

use crate::config;
use crate::messages::causes;

/// Sends batches of spans.
pub struct Collector {
    exporter: SpanExporter,
    fault: Arc<Fault>,
}

/// What the last request failed by: the library says only that it did.
#[derive(Debug, Default)]
struct Fault(Mutex<Option<String>>);

#[derive(Debug)]
struct Client {
    hyper: HyperClient<HttpsConnector<HttpConnector>>,
    fault: Arc<Fault>,
}

impl Collector {
    /// # Errors
    /// When the collector is asked by https and there are no CA certificates; or when one of the variables that the library
    /// reads (`OTEL_EXPORTER_OTLP_…`) wants what it cannot.
    pub fn new(config: &config::Tracing) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = match config.endpoint.starts_with("https:") {
            true => tls.with_native_roots().context("this machine has no CA certificates")?,
            false => tls.with_root_certificates(RootCertStore::empty()),
        };
        let tls = tls.with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let fault = Arc::<Fault>::default();
        let client = Client { hyper: HyperClient::new(connector, config.timeout, None), fault: fault.clone() };
        let headers = config.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&config.endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(config.timeout)
            .with_headers(headers.collect::<HashMap<_, _>>())
            .build()?;
        exporter.set_resource(&Resource::builder().with_service_name(config.service_name.clone()).build());
        Ok(Collector { exporter, fault })
    }

    /// Sends a batch, and tries again for as long as `timeout` allows where the collector asks for it.
    ///
    /// # Errors
    /// When the collector did not take it; the text says why.
    pub async fn take(&self, spans: Vec<SpanData>) -> Result<(), String> {
        self.fault.set(None);
        let taken = self.exporter.export(spans).await;
        taken.map_err(|error| self.fault.get().unwrap_or_else(|| error.to_string()))
    }
}

impl Fault {
    fn set(&self, fault: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.hyper.send_bytes(request).await;
        self.fault.set(answer.as_ref().err().map(|error| causes(error.as_ref())));
        answer
    }
}
