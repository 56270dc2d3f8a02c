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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, Issuer, KeyIdMethod, KeyPair, SerialNumber};

    use super::*;

    /// The example of RFC 9773 §4.1.
    #[test]
    fn a_certificate_has_the_identifier_that_its_ca_knows() {
        let authority = [
            0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0, 0xae, 0x2c, 0xde, 0x01,
            0xc8, 0xd4,
        ];
        let mut ca = CertificateParams::new([]).unwrap();
        ca.key_identifier_method = KeyIdMethod::PreSpecified(authority.to_vec());
        let ca = Issuer::new(ca, KeyPair::generate().unwrap());
        let mut parameters = CertificateParams::new(["A.example".to_owned()]).unwrap();
        parameters.serial_number = Some(SerialNumber::from_slice(&[0x00, 0x87, 0x65, 0x43, 0x21]));
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let pem = key.serialize_pem() + &parameters.signed_by(&key, &ca).unwrap().pem();
        let certificate = Certificate::from_pem(pem.as_bytes(), "a.example").unwrap();
        assert_eq!(certificate.identifier().unwrap().to_string(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
        assert_eq!(certificate.leaf.names, ["a.example"]);

        // Without the authority's key there is none, and the CA is not asked.
        let pem = key.serialize_pem()
            + &CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        assert!(Certificate::from_pem(pem.as_bytes(), "a.example").unwrap().identifier().is_none());
    }
}
