//! What a certificate says of itself.

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::renewal::Span;

/// The parts of a server's own certificate that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The DNS names that it is for, in lower case (RFC 5280 §4.2.1.6).
    pub names: Vec<String>,
    pub life: Span,
    /// Its serial number, and the key identifier of who signed it: what tells it from all others of a CA (RFC 9773 §4.1).
    pub serial: Vec<u8>,
    pub authority: Option<Vec<u8>>,
}

impl Leaf {
    /// # Errors
    /// When it is no certificate, or names are none.
    pub fn of(certificate: &CertificateDer<'_>) -> anyhow::Result<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).context("it is no X.509 certificate")?;
        let alternatives = parsed.subject_alternative_name()?.map(|names| names.value.general_names.clone());
        let names = alternatives.unwrap_or_default().into_iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let authority = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(authority) => Some(authority.key_identifier.as_ref()?.0.to_vec()),
            _ => None,
        });
        let validity = parsed.validity();
        Ok(Leaf {
            names: names.collect(),
            life: Span { from: validity.not_before.timestamp(), to: validity.not_after.timestamp() },
            serial: parsed.raw_serial().to_vec(),
            authority,
        })
    }
}
