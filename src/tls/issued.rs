//! Certificates that a CA gave while we run, shared by all listeners; and the answers to its validation (RFC 8737).
//!
//! A handshake reads without a lock. What is under way is not touched by what is put in.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

use crate::renewal::Span;

/// The protocol that a CA names, alone, when it validates a name (RFC 8737 §3).
pub const VALIDATION: &[u8] = b"acme-tls/1";

type ByName<T> = HashMap<String, T>;

/// A certificate with its key, and the time in which it is good.
#[derive(Clone, Debug)]
pub struct Dated {
    pub certified: Arc<CertifiedKey>,
    pub life: Span,
}

/// By name, in lower case.
#[derive(Default)]
pub struct Issued {
    certificates: ArcSwap<ByName<Dated>>,
    answers: ArcSwap<ByName<Arc<CertifiedKey>>>,
}

impl Issued {
    /// Whether this handshake is a CA's, which gets an answer or nothing.
    pub fn is_validation(hello: &ClientHello<'_>) -> bool {
        hello.alpn().is_some_and(|protocols| protocols.eq([VALIDATION]))
    }

    pub fn certificate(&self, name: &str) -> Option<Dated> {
        self.certificates.load().get(name).cloned()
    }

    pub fn answer(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.answers.load().get(name).cloned()
    }

    /// New handshakes for this name get this certificate.
    pub fn install(&self, name: &str, certificate: &Dated) {
        put(&self.certificates, name, Some(certificate));
    }

    /// Who asks for this name gets what there is in files, or nothing.
    pub fn remove(&self, name: &str) {
        put(&self.certificates, name, None);
    }

    /// A CA that validates this name gets this certificate, as long as the returned value lives.
    pub fn answering(self: &Arc<Self>, name: &str, key: &Arc<CertifiedKey>) -> Answering {
        put(&self.answers, name, Some(key));
        Answering { issued: self.clone(), name: name.to_owned(), key: key.clone() }
    }
}

/// While it lives, one name's validation is answered.
pub struct Answering {
    issued: Arc<Issued>,
    name: String,
    key: Arc<CertifiedKey>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        // A later order may have put in its own.
        if self.issued.answer(&self.name).is_some_and(|key| Arc::ptr_eq(&key, &self.key)) {
            put(&self.issued.answers, &self.name, None);
        }
    }
}

fn put<T: Clone>(map: &ArcSwap<ByName<T>>, name: &str, what: Option<&T>) {
    map.rcu(|map| {
        let mut map = ByName::clone(map);
        match what {
            Some(what) => map.insert(name.to_owned(), what.clone()),
            None => map.remove(name),
        };
        map
    });
}
