//! The certificates of one listener: read from files, found by name, read again when a file changes; and those that a CA
//! issues by ACME, which come before files of the same name while they are good.
//!
//! Files are looked at every few seconds instead of being watched: that sees a replaced file, a changed link (as in a
//! mounted secret) and a network file system alike. What cannot be used leaves what is there in place.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use log::{info, warn};
use prometheus::{IntCounterVec, IntGaugeVec};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Dated, Issued, Leaf};
use crate::config::{CertificateFiles, Tls};
use crate::metrics::Metrics;
use crate::unix;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub struct Certificates {
    listener: String,
    files: Vec<CertificateFiles>,
    folder: Option<PathBuf>,
    /// Names whose certificates come from `issued`, once they are there.
    acme: Vec<String>,
    issued: Arc<Issued>,
    known: ArcSwap<Known>,
    /// What the files were like when they were last read, whether or not they could be used.
    looked_at: Mutex<Vec<Stamp>>,
    reloads: IntCounterVec,
    expires: IntGaugeVec,
}

/// Certificates by name.
#[derive(Default)]
struct Known {
    /// In lower case; `*.example.com` as it stands. Several of one name differ in the kind of their key, or in their time.
    by_name: HashMap<String, Vec<Dated>>,
    /// For clients that name no host, or one that nobody has: the first certificate, and its first name, under which there
    /// may be others with a key of another kind.
    default: Option<(Dated, Option<String>)>,
}

/// What tells a file from its next version.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(PathBuf, Option<(u64, SystemTime)>);

impl Certificates {
    /// Reads them all.
    ///
    /// # Errors
    /// When a file cannot be read, is no PEM, or a key is not its certificate's; or there is none at all, and none to come.
    pub fn read(listener: &str, tls: &Tls, issued: &Arc<Issued>, metrics: &Metrics) -> anyhow::Result<Arc<Self>> {
        let certificates = Certificates {
            listener: listener.to_owned(),
            files: tls.certificates.clone(),
            folder: tls.folder.clone(),
            acme: tls.acme.clone(),
            issued: issued.clone(),
            known: ArcSwap::default(),
            looked_at: Mutex::default(),
            reloads: metrics.certificate_reloads.clone(),
            expires: metrics.certificate_expires.clone(),
        };
        let stamps = certificates.stamps();
        certificates.known.store(Arc::new(certificates.load()?));
        *certificates.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = stamps;
        Ok(Arc::new(certificates))
    }

    /// Whether a CA may validate names here.
    pub fn are_validated(&self) -> bool {
        !self.acme.is_empty()
    }

    /// Looks again and again, for ever.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let certificates = self.clone();
            // It reads files, which blocks.
            let _ = tokio::task::spawn_blocking(move || certificates.look_again()).await;
        }
    }

    /// Reads them again if a file has changed. New handshakes use what is new; what cannot be used is told of, and
    /// nothing changes.
    fn look_again(&self) {
        let stamps = self.stamps();
        let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        if *looked_at == stamps {
            return;
        }
        *looked_at = stamps;
        let result = match self.load() {
            Ok(known) => {
                self.hide();
                self.known.store(Arc::new(known));
                self.show();
                info!("listener {}: its certificates were read again", self.listener);
                "success"
            }
            Err(error) => {
                warn!("listener {}: changed certificates are not used, the old ones are: {error:#}", self.listener);
                "failure"
            }
        };
        self.reloads.with_label_values(&[self.listener.as_str(), result]).inc();
    }

    /// Tells the metrics when they expire, but where the CA's come before them. To be called when they are in use.
    pub fn show(&self) {
        for (name, dated) in &self.known.load().by_name {
            if let Some(expires) = expires(dated).filter(|_| !self.is_issued(name)) {
                self.expires.with_label_values(&[self.listener.as_str(), name.as_str()]).set(expires);
            }
        }
    }

    /// Takes from the metrics what [`Certificates::show`] has told them.
    pub fn hide(&self) {
        for name in self.known.load().by_name.keys().filter(|name| !self.is_issued(name)) {
            // Nobody may have seen it there yet.
            let _ = self.expires.remove_label_values(&[self.listener.as_str(), name.as_str()]);
        }
    }

    fn is_issued(&self, name: &str) -> bool {
        self.acme.iter().any(|own| own == name) && self.issued.certificate(name).is_some()
    }

    fn load(&self) -> anyhow::Result<Known> {
        let mut known = Known::default();
        for files in &self.all_files()? {
            let (certified, Leaf { names, life, .. }) = read(files)?;
            let dated = Dated { certified: Arc::new(certified), life };
            for name in &names {
                known.by_name.entry(name.clone()).or_default().push(dated.clone());
            }
            if known.default.is_none() {
                known.default = Some((dated, names.into_iter().next()));
            }
        }
        if known.default.is_none() && self.acme.is_empty() {
            let folder = self.folder.as_deref().unwrap_or(Path::new("")).display();
            bail!("the folder `{folder}` has no certificate: put NAME.crt (or NAME.pem) and NAME.key there");
        }
        Ok(known)
    }

    /// The files of the config, then those of the folder by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all_files(&self) -> anyhow::Result<Vec<CertificateFiles>> {
        let mut files = self.files.clone();
        let Some(folder) = &self.folder else { return Ok(files) };
        let entries =
            fs::read_dir(folder).with_context(|| format!("the folder `{}` cannot be read", folder.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let is = |kind| path.extension().is_some_and(|extension| extension == kind);
            if is("crt") || is("pem") {
                let ocsp = Some(path.with_extension("ocsp")).filter(|ocsp| ocsp.exists());
                found.push(CertificateFiles { key: path.with_extension("key"), certificate: path, ocsp });
            }
        }
        found.sort_by(|a, b| a.certificate.cmp(&b.certificate));
        files.extend(found);
        Ok(files)
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &Path| {
            let seen = fs::metadata(path).and_then(|file| Ok((file.len(), file.modified()?))).ok();
            Stamp(path.to_owned(), seen)
        };
        let files = self.all_files().unwrap_or_default();
        let paths = files.iter().flat_map(|files| [Some(&files.certificate), Some(&files.key), files.ocsp.as_ref()]);
        paths.flatten().map(|path| stamp(path)).collect()
    }
}

impl Known {
    /// Those for `name`, which is in lower case.
    fn named(&self, name: &str) -> Option<&[Dated]> {
        // RFC 9525 §6.3: a `*` stands for one label, the first.
        let wild = || Some(format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(name).or_else(|| self.by_name.get(&wild()?)).map(Vec::as_slice)
    }

    /// Those for `name`, else the default.
    fn find(&self, name: Option<&str>) -> &[Dated] {
        let default = || {
            let (dated, name) = self.default.as_ref()?;
            name.as_deref().and_then(|name| self.named(name)).or(Some(std::slice::from_ref(dated)))
        };
        name.and_then(|name| self.named(&name.to_ascii_lowercase())).or_else(default).unwrap_or_default()
    }
}

/// When the first kind of client has none of one name's that is still good.
fn expires(named: &[Dated]) -> Option<i64> {
    let kind = |dated: &Dated| dated.certified.key.algorithm();
    let last = |of: &Dated| named.iter().filter(|dated| kind(dated) == kind(of)).map(|dated| dated.life.to).max();
    named.iter().filter_map(last).min()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        let mut issued = None;
        if self.are_validated() {
            let name = name.unwrap_or_default().to_ascii_lowercase();
            if Issued::is_validation(&hello) {
                return self.issued.answer(&name);
            }
            issued = self.acme.contains(&name).then(|| self.issued.certificate(&name)).flatten();
        }
        let known = self.known.load();
        let named = match (&issued, name) {
            // Of another name none is better, however good.
            (Some(_), Some(name)) => known.named(&name.to_ascii_lowercase()).unwrap_or_default(),
            _ => known.find(name),
        };
        let fits = |dated: &&Dated| dated.certified.key.choose_scheme(hello.signature_schemes()).is_some();
        // The CA's, then those of files.
        let known = || issued.iter().chain(named.iter().filter(fits));
        let now = unix::signed_seconds(SystemTime::now());
        let chosen = known().find(|dated| dated.life.holds(now)).or(known().next()).or(named.first()).cloned();
        let chosen = chosen.or_else(|| self.acme.iter().find_map(|name| self.issued.certificate(name)));
        chosen.map(|dated| dated.certified)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({})", self.listener)
    }
}

/// What a certificate's files hold.
#[derive(Debug)]
pub struct Examined {
    pub names: Vec<String>,
    /// Unix times.
    pub not_before: i64,
    pub not_after: i64,
    /// Each certificate is followed by its issuer's.
    pub in_order: bool,
    /// The first one is its own issuer, so that nobody vouches for it.
    pub self_signed: bool,
}

/// Reads a certificate and its key, and looks at what clients will.
///
/// # Errors
/// When they could not be used.
pub fn examine(files: &CertificateFiles) -> anyhow::Result<Examined> {
    let (certified, Leaf { names, life, .. }) = read(files)?;
    let parsed: Result<Vec<_>, _> = certified.cert.iter().map(|der| X509Certificate::from_der(der)).collect();
    let chain: Vec<X509Certificate<'_>> = parsed?.into_iter().map(|(_, certificate)| certificate).collect();
    let leaf = chain.first().context("no certificate")?;
    Ok(Examined {
        names,
        not_before: life.from,
        not_after: life.to,
        in_order: chain.windows(2).all(|pair| pair[0].issuer() == pair[1].subject()),
        self_signed: leaf.issuer() == leaf.subject(),
    })
}

/// A certificate with its key, and what it says of itself.
fn read(files: &CertificateFiles) -> anyhow::Result<(CertifiedKey, Leaf)> {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("the certificate `{certificate}` cannot be read"))?;
    let Some(leaf) = chain.first() else { bail!("`{certificate}` holds no certificate") };
    let leaf = Leaf::of(leaf).with_context(|| format!("`{certificate}` holds no certificate"))?;
    let private =
        PrivateKeyDer::from_pem_file(&files.key).with_context(|| format!("the key `{key}` cannot be read"))?;
    let signing =
        any_supported_type(&private).with_context(|| format!("`{key}` is of a kind that is not supported"))?;
    let mut certified = CertifiedKey::new(chain, signing);
    certified.keys_match().with_context(|| format!("`{key}` is not the key of `{certificate}`"))?;
    if let Some(ocsp) = &files.ocsp {
        let read: io::Result<Vec<u8>> = fs::read(ocsp);
        certified.ocsp = Some(read.with_context(|| format!("the OCSP answer `{}` cannot be read", ocsp.display()))?);
    }
    Ok((certified, leaf))
}
