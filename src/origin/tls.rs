//! TLS towards one target: whom to trust, which name to ask for, and what to mend when it fails.
//!
//! All of it is given with each connection (Pingora's peer), and not with the connector, so that one connector serves all
//! targets, and Pingora's own on the native path does the same as ours.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use log::warn;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora::{Error, ErrorType};

use crate::config;
use crate::fallback::Failure;
use crate::quiet::Quiet;

pub struct Tls {
    /// Whose certificate it is, for the log.
    whose: String,
    /// Never empty: Pingora would then verify nothing.
    name: String,
    /// The config key that says it.
    named_by: &'static str,
    verify: bool,
    /// Instead of the system's.
    ca: Option<Arc<[WrappedX509]>>,
    client: Option<Arc<CertKey>>,
    quiet: Quiet,
}

impl Tls {
    /// As the pool's nodes are spoken to; `None` is plain HTTP.
    pub fn to_node(pool: &config::Pool, node: &config::Node) -> Option<Arc<Self>> {
        let tls = pool.tls.as_ref()?;
        let whose = format!("node {} of pool {}", node.name, pool.name);
        if !tls.verify {
            warn!("{whose}: its certificate is not verified: anybody in between can read and change all");
        }
        let client = tls.client.as_ref().map(|client| {
            let chain = client.chain.iter().map(|certificate| certificate.to_vec()).collect();
            Arc::new(CertKey::new(chain, client.key.secret_der().to_vec()))
        });
        Some(Arc::new(Tls {
            whose,
            name: tls.name_of(node).to_owned(),
            named_by: "`server_name` of the pool's `tls`",
            verify: tls.verify,
            ca: tls.ca.as_ref().map(authorities),
            client,
            quiet: Quiet::for_each(TELL_EVERY),
        }))
    }

    /// As the store is spoken to; `None` is plain HTTP.
    pub fn to_store(store: &config::Store) -> Option<Arc<Self>> {
        store.tls.then(|| {
            Arc::new(Tls {
                whose: format!("store {}", store.name),
                name: store.address.host.clone(),
                named_by: "`endpoint`",
                verify: true,
                ca: store.ca.as_ref().map(authorities),
                client: None,
                quiet: Quiet::for_each(TELL_EVERY),
            })
        })
    }

    /// The name to ask for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a connection needs beside the name.
    pub fn equip(&self, peer: &mut HttpPeer) {
        peer.options.verify_cert = self.verify;
        peer.options.verify_hostname = self.verify;
        peer.options.ca.clone_from(&self.ca);
        peer.client_cert_key.clone_from(&self.client);
    }

    /// Tells an operator what to mend, at most every ten seconds.
    pub fn tell(&self, error: &Error) {
        if self.quiet.is_over(Instant::now()) {
            let said = error.to_string();
            let said = reason(&said);
            warn!("{}: TLS fails: {said}; {}", self.whose, self.advice(said));
        }
    }

    fn advice(&self, said: &str) -> String {
        let has = |part: &str| said.contains(part);
        if has("UnknownIssuer") || has("BadSignature") {
            return "name the PEM file of the CA that signed it as `ca`".into();
        }
        if has("no root trust anchors") {
            return "this machine has no CA certificates: install them (ca-certificates)".into();
        }
        if has("CaUsedAsEndEntity") {
            return "it is a CA's certificate: sign one with it for the node, or make one that is no CA's (openssl req -x509 -addext basicConstraints=critical,CA:FALSE)".into();
        }
        if has("not valid for name") || has("NotValidForName") {
            return format!("`{}` is asked for: write a name that the certificate has as {}", self.name, self.named_by);
        }
        if has("expired") || has("Expired") {
            return "have it renewed, or set this machine's clock".into();
        }
        if has(FATAL_ALERT) {
            return "it refuses us: does it want a client certificate, another name, or a newer TLS?".into();
        }
        if has("InvalidContentType") || has("eof") {
            return "does it speak TLS at this port at all?".into();
        }
        format!("`{}` is asked for", self.name)
    }
}

fn authorities(ca: &config::Authorities) -> Arc<[WrappedX509]> {
    // invariant: `config` took only what this parser takes
    ca.0.iter().map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509)).collect()
}

/// What failed in a TLS handshake, if that is what failed. Pingora keeps nothing of rustls' error but its text.
pub fn failure(error: &Error) -> Option<Failure> {
    let of_tls = [
        ErrorType::TLSHandshakeFailure,
        ErrorType::TLSHandshakeTimedout,
        ErrorType::InvalidCert,
        ErrorType::HandshakeError,
    ];
    if !of_tls.contains(error.etype()) {
        return None;
    }
    let said = error.to_string();
    Some(if said.contains(BAD_CERTIFICATE) || *error.etype() == ErrorType::InvalidCert {
        Failure::TlsCertificateError
    } else if said.contains(FATAL_ALERT) {
        Failure::TlsAlertReceived
    } else {
        Failure::TlsProtocolError
    })
}

/// Whether the other side ended a connection by a TLS alert. With TLS 1.3 it says so only after the handshake that it
/// wants a client certificate (RFC 8446 §4.4.2.4).
pub fn is_alert(error: &Error) -> bool {
    error.to_string().contains(FATAL_ALERT)
}

/// What rustls said, out of all that Pingora puts around it: what it was about before, and the addresses after.
fn reason(said: &str) -> &str {
    let said = said.split(", SNI: ").next().unwrap_or(said);
    let said = said.rsplit("cause: ").next().unwrap_or(said);
    said.rsplit("context: ").next().unwrap_or(said).trim()
}

/// How rustls' errors begin.
const BAD_CERTIFICATE: &str = "invalid peer certificate";
const FATAL_ALERT: &str = "received fatal alert";
const TELL_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rustls_said_is_found_in_what_pingora_says() {
        const CASES: &[(&str, &str)] = &[
            (
                " TLSHandshakeFailure context: TLS connect() failed:  TLSHandshakeFailure context: tls connect error cause: received corrupt message of type InvalidContentType, SNI: a.example cause: local address 127.0.0.1:1",
                "received corrupt message of type InvalidContentType",
            ),
            (" InvalidCert context: per-peer CA list is empty", "per-peer CA list is empty"),
            (
                " ReadError context: while reading cause: received fatal alert: CertificateRequired",
                "received fatal alert: CertificateRequired",
            ),
            ("", ""),
        ];
        for (said, expected) in CASES {
            assert_eq!(reason(said), *expected);
        }
    }
}
