//! Whether a PEM file has the certificate that a NodeBalancer had.
//!
//! The API gives no certificate back, only its fingerprint, whose hash it does not name. So the length decides: 20 bytes
//! are SHA-1, 32 are SHA-256, both over the DER.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{Refusal, TlsFiles};
use crate::hex;

/// The certificate that the operator named.
pub struct Certificate {
    /// Path of it, for the config.
    pub path: String,
    /// Path of its key, for the config.
    pub key: String,
    der: Vec<u8>,
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Same,
    Other,
    /// The fingerprint is missing, or is none that we know.
    Unknown,
}

impl Certificate {
    /// The first certificate of the PEM text: the one that is served, before its intermediates.
    pub fn read(files: &TlsFiles) -> Result<Certificate, Refusal> {
        let der = CertificateDer::from_pem_slice(files.pem.as_bytes()).map_err(|_| {
            Refusal(format!("{}: there is no certificate in it; name a PEM file with one", files.certificate))
        })?;
        Ok(Certificate { path: files.certificate.clone(), key: files.key.clone(), der: der.to_vec() })
    }

    /// Holds it against a fingerprint in hex digits, with or without colons, in either case.
    pub fn compare(&self, fingerprint: &str) -> Comparison {
        let digits: String = fingerprint.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
        let ours = match digits.len() {
            40 => hex::of(&Sha1::digest(&self.der)),
            64 => hex::of(&Sha256::digest(&self.der)),
            _ => return Comparison::Unknown,
        };
        if ours == digits { Comparison::Same } else { Comparison::Other }
    }
}
