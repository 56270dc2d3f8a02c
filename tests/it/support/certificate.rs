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
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("valid names");
        let (cert_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
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
