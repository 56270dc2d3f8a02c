//! Certificates and keys out of PEM text (RFC 7468). What is returned can be used, so that nothing fails later.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authorities, ClientCertificate};

/// All certificates of `text`, each fit to be trusted.
///
/// # Errors
/// Why there is none, or one that cannot be trusted, as a sentence's end.
pub fn authorities(text: &str) -> Result<Authorities, &'static str> {
    let certificates = certificates(text)?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store.add(certificate.clone()).map_err(|_| "has a certificate that cannot be a CA's")?;
    }
    Ok(Authorities(certificates.into()))
}

/// The chain of `certificate` with its `key`.
///
/// # Errors
/// Why they cannot be used, as a sentence's end.
pub fn client(certificate: &str, key: &str) -> Result<ClientCertificate, &'static str> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "has a key that cannot be read")?;
    let signing = any_supported_type(&key).map_err(|_| "has a key of a kind that is not supported")?;
    CertifiedKey::new(chain.clone(), signing).keys_match().map_err(|_| "has a key that is another certificate's")?;
    Ok(ClientCertificate { chain, key: Arc::new(key) })
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| "has a certificate that cannot be read")?;
    if certificates.is_empty() {
        return Err("holds no certificate");
    }
    // Pingora takes each apart with this parser, and would panic.
    match certificates.iter().all(|certificate| X509Certificate::from_der(certificate).is_ok()) {
        true => Ok(certificates),
        false => Err("has a certificate that cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_used_is_taken() {
        let pair = || {
            let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let ((certificate, key), (other, other_key)) = (pair(), pair());
        assert_eq!(authorities(&format!("{certificate}{other}")).unwrap().0.len(), 2);
        assert_eq!(client(&format!("{certificate}{other}"), &key).unwrap().chain.len(), 2);
        let torn = certificate.replace("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nAAAA");
        for (text, told) in [
            ("", "holds no certificate"),
            (key.as_str(), "holds no certificate"),
            (torn.as_str(), "cannot be read"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "cannot be read"),
        ] {
            assert!(authorities(text).unwrap_err().contains(told), "{text}");
            assert!(client(text, &key).unwrap_err().contains(told), "{text}");
        }
        assert!(client(&certificate, "").unwrap_err().contains("key that cannot be read"));
        assert!(client(&certificate, &certificate).unwrap_err().contains("key that cannot be read"));
        assert!(client(&certificate, &other_key).unwrap_err().contains("another certificate's"));
        assert!(!format!("{:?}", client(&certificate, &key).unwrap().key).contains("48, "), "a key is not printed");
    }
}
