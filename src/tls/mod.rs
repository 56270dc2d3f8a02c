//! TLS towards clients, by rustls: several certificates by name (SNI, RFC 6066 §3), HTTP/2 by ALPN, resumption by
//! tickets.

mod certificates;
mod issued;
mod leaf;

use std::sync::Arc;

use pingora::listeners::tls::Acceptor;
use rustls::ServerConfig;

pub use certificates::{Certificates, Examined, examine};
pub use issued::{Answering, Dated, Issued, VALIDATION};
pub use leaf::Leaf;

use crate::config::TlsProfile;

/// Does handshakes with whatever `certificates` hold at the moment.
///
/// # Errors
/// When the library has none of the protocol's versions.
pub fn acceptor(certificates: Arc<Certificates>, profile: TlsProfile, http2: bool) -> anyhow::Result<Acceptor> {
    let versions: &[&rustls::SupportedProtocolVersion] = match profile {
        TlsProfile::Modern => &[&rustls::version::TLS13],
        // rustls has nothing older than these, and only ciphers with forward secrecy and authentication.
        TlsProfile::Recommended | TlsProfile::Legacy => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let are_validated = certificates.are_validated();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = match http2 {
        true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        false => vec![b"http/1.1".to_vec()],
    };
    if are_validated {
        // Last, so that only who offers nothing else gets it.
        config.alpn_protocols.push(VALIDATION.to_vec());
    }
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Acceptor::from_server_config(Arc::new(config)))
}
