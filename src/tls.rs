//! TLS towards clients: TLS 1.2 and 1.3 by rustls, a PEM pair, HTTP/2 by ALPN.

use std::sync::Arc;

use anyhow::{Context, bail};
use pingora::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsFiles;

/// Reads a certificate and its key.
///
/// # Errors
/// When a file cannot be read, is no PEM, or the key is not the certificate's.
pub fn acceptor(files: &TlsFiles, http2: bool) -> anyhow::Result<Acceptor> {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("the certificate `{certificate}` cannot be read"))?;
    if chain.is_empty() {
        bail!("`{certificate}` holds no certificate");
    }
    let private =
        PrivateKeyDer::from_pem_file(&files.key).with_context(|| format!("the key `{key}` cannot be read"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("`{key}` is not the key of `{certificate}`"))?;
    config.alpn_protocols = match http2 {
        true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        false => vec![b"http/1.1".to_vec()],
    };
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Acceptor::from_server_config(Arc::new(config)))
}
