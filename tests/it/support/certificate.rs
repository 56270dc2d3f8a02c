//! A self-signed certificate for a TLS listener, as the PEM pair that the configuration names.

use std::path::PathBuf;

use tempfile::TempDir;

pub struct Certificate {
    pub cert_pem: String,
    pub key_pem: String,
    folder: TempDir,
}

impl Certificate {
    /// For host names and IP addresses: `&["localhost", "127.0.0.1"]`.
    pub fn for_names(names: &[&str]) -> Certificate {
        Certificate::make(names, |_| {})
    }

    /// One whose time is over.
    pub fn expired(names: &[&str]) -> Certificate {
        Certificate::make(names, |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1))
    }

    /// One that may sign others, as `openssl req -x509` makes it.
    pub fn of_a_ca(names: &[&str]) -> Certificate {
        Certificate::make(names, |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained))
    }

    fn make(names: &[&str], change: impl FnOnce(&mut rcgen::CertificateParams)) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("valid names");
        change(&mut params);
        let key = rcgen::KeyPair::generate().expect("a key");
        let (cert_pem, key_pem) = (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem());
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("cert.pem"), &cert_pem).unwrap();
        std::fs::write(folder.path().join("key.pem"), &key_pem).unwrap();
        Certificate { cert_pem, key_pem, folder }
    }

    pub fn cert_path(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub fn key_path(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
