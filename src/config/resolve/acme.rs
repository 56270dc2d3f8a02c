//! The CA, and the names that it is asked to certify.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Resolver;
use crate::config::load::Problem;
use crate::config::model::{self, Field};
use crate::config::{Acme, ExternalAccount};

/// Let's Encrypt's.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

impl Resolver<'_> {
    pub(super) fn acme(&mut self, acme: &model::Acme) -> Acme {
        if self.parse(&acme.terms_of_service_agreed) == Some(false) {
            let fix = "read the CA's terms of service and write true, or remove `acme`";
            self.bad(&acme.terms_of_service_agreed, "without it the CA issues nothing", fix);
        }
        if acme.folder.text().is_empty() {
            self.bad(&acme.folder, "not a folder", "name one such as /var/lib/hopfall/acme");
        }
        let directory = self.value(acme.directory.as_ref(), DIRECTORY.to_owned());
        if let Some(field) = &acme.directory
            && !is_https(&directory)
        {
            self.bad(field, "not the address of a directory", "write one that begins with https://");
        }
        let email = acme.email.as_ref().map(|email| email.text().to_owned());
        if let Some(field) = &acme.email
            && !is_email(field.text())
        {
            self.bad(field, "not an e-mail address", "write one such as ops@example.com");
        }
        Acme {
            folder: acme.folder.text().into(),
            directory,
            email,
            ca: acme.ca.as_ref().map(|ca| ca.text().into()),
            external_account: acme.eab.as_ref().map(|eab| self.external_account(eab)),
        }
    }

    fn external_account(&mut self, eab: &model::Eab) -> ExternalAccount {
        let before = self.problems.len();
        let secret = self.secret(&eab.hmac_key);
        let hmac_key = URL_SAFE_NO_PAD.decode(secret.expose().trim_end_matches('=')).unwrap_or_else(|_| {
            if self.problems.len() == before {
                // Neither the value nor what is wrong with it: that would tell a part of it.
                let fix = "write it as the CA shows it, in base64url";
                self.problems.push(Problem::at(eab.hmac_key.at(), "the secret is not in base64url", fix));
            }
            Vec::new()
        });
        ExternalAccount { key_id: eab.key_id.text().to_owned(), hmac_key }
    }

    /// The names of one listener, in lower case.
    pub(super) fn acme_names(&mut self, names: &[Field<String>], has_acme: bool) -> Vec<String> {
        if let Some(first) = names.first()
            && !has_acme
        {
            let fix = "add acme: { folder: FOLDER, terms_of_service_agreed: true } at the top level";
            self.bad(first, "a name for ACME, but the config has no `acme`", fix);
        }
        self.unique("name", names.iter());
        for name in names {
            let text = name.text();
            if text.starts_with("*.") {
                let fix = "list the hosts one by one, or get the certificate elsewhere and name its files";
                self.bad(name, "a wildcard needs validation by DNS, which hopfall does not do", fix);
            } else if !is_dns_name(text) {
                let fix = "write a full DNS name such as cdn.example.com; if it is not ASCII, in its xn-- form";
                self.bad(name, "not a name that a CA can certify", fix);
            }
        }
        names.iter().map(|name| name.text().to_ascii_lowercase()).collect()
    }
}

fn is_https(address: &str) -> bool {
    let uri = address.parse::<http::Uri>();
    uri.is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty()))
}

/// Enough for `mailto:` (RFC 6068): what else is wrong with it the CA says.
fn is_email(text: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"@,?&%".contains(&b));
    text.split_once('@').is_some_and(|(user, host)| plain(user) && plain(host))
}

/// Two labels at least, of letters, digits and hyphens (RFC 1123 §2.1), and no IP address.
fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_word = text.rsplit('.').next().is_some_and(|last| last.bytes().any(|b| b.is_ascii_alphabetic()));
    text.len() <= 253 && text.contains('.') && last_is_word && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_a_ca_may_certify() {
        for good in ["a.test", "CDN.Example.com", "xn--bcher-kva.example", "a-b.c0", "1.example"] {
            assert!(is_dns_name(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        for bad in [
            "",
            "localhost",
            "10.0.0.1",
            "a..b",
            ".a.b",
            "a.b.",
            "-a.b",
            "a-.b",
            "a_b.c",
            "ü.de",
            "a.b/c",
            "*.a.b",
            &long,
        ] {
            assert!(!is_dns_name(bad), "{bad}");
        }
    }
}
