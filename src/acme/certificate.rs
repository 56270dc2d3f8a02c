//! A certificate as a CA issued it: a key and its chain in one PEM text, so that both are replaced at once.

use std::sync::Arc;

use anyhow::{Context, ensure};
use instant_acme::CertificateIdentifier;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, Der, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::tls::Leaf;

#[derive(Clone, Debug)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    pub leaf: Leaf,
}

impl Certificate {
    /// Reads the private key and the chain, which must be for `name`.
    ///
    /// # Errors
    /// When one of them is missing or broken, or does not fit.
    pub fn from_pem(pem: &[u8], name: &str) -> anyhow::Result<Self> {
        // The parser's own errors would quote what they stopped at, and that may be the key.
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<CertificateDer<'static>>, _>>();
        let chain = chain.ok().context("a certificate in it is broken")?;
        let leaf = Leaf::of(chain.first().context("it has no certificate")?)?;
        ensure!(leaf.names.iter().any(|named| named == name), "its certificate is for other names: {:?}", leaf.names);
        let private = PrivateKeyDer::from_pem_slice(pem).ok().context("it has no private key")?;
        let key = CertifiedKey::new(chain, any_supported_type(&private).context("its private key is broken")?);
        key.keys_match().context("its private key is another certificate's")?;
        Ok(Certificate { key: Arc::new(key), leaf })
    }

    /// What the CA knows it by (RFC 9773 §4.1), if it has all that this takes.
    pub fn identifier(&self) -> Option<CertificateIdentifier<'static>> {
        let authority = self.leaf.authority.as_deref()?;
        Some(CertificateIdentifier::new(Der::from_slice(authority), Der::from_slice(&self.leaf.serial)).into_owned())
    }
}
