//! Certificates from a CA by ACME (RFC 8555): got when there is none, renewed when it is time, kept on disk.
//!
//! Nothing here takes a certificate away. What fails is told, counted and tried again, and handshakes go on with what
//! they have. When to renew, and how long to wait after a failure, `renewal` decides.

mod certificate;
mod client;
mod failure;
mod keeper;
mod order;
mod vault;

use std::collections::BTreeMap;
use std::sync::Arc;

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use log::{info, warn};
use prometheus::{IntCounterVec, IntGaugeVec};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;

use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::tls::Issued;

use client::Client;
use failure::Failure;
use keeper::Keeper;
use vault::Vault;

/// All names that are kept certified.
pub struct Acme {
    issued: Arc<Issued>,
    orders: IntCounterVec,
    expires: IntGaugeVec,
    ca: Option<Arc<Ca>>,
    kept: Vec<Kept>,
}

/// A name whose keeper runs.
struct Kept {
    name: String,
    listeners: Vec<String>,
    ca: Arc<Ca>,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The CA, and what all names share.
struct Ca {
    config: config::Acme,
    vault: Vault,
    issued: Arc<Issued>,
    /// So that only one account is made.
    account: Mutex<()>,
    /// Orders at a time: a CA is not to be stormed, and one slow name is not to hold up all others.
    turns: Semaphore,
    orders: IntCounterVec,
    expires: IntGaugeVec,
}

impl Acme {
    /// For no name yet.
    pub fn new(metrics: &Metrics) -> Self {
        Acme {
            issued: Arc::default(),
            orders: metrics.certificate_orders.clone(),
            expires: metrics.certificate_expires.clone(),
            ca: None,
            kept: Vec::new(),
        }
    }

    /// Where handshakes find the certificates.
    pub fn issued(&self) -> &Arc<Issued> {
        &self.issued
    }

    /// Orders no more: another process has taken over, to which a CA that validates comes.
    pub fn leave(&mut self) {
        self.kept.clear();
    }

    /// Keeps the `acme` names of this config's listeners certified from here on, as long as this value lives, and no others.
    /// What is on disk is there at once; a file that cannot be used is told of, and its certificate ordered anew. A name
    /// that stays is not disturbed; one whose CA is another keeps what it has until that has issued.
    pub fn follow(&mut self, config: &Config) {
        let mut wanted: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for listener in &config.listeners {
            for name in listener.tls.iter().flat_map(|tls| &tls.acme) {
                wanted.entry(name).or_default().push(listener.name.clone());
            }
        }
        let ca = config.acme.as_ref().map(|acme| match self.ca.take().filter(|ca| ca.config == *acme) {
            Some(same) => same,
            None => Arc::new(self.ca(acme)),
        });
        let mut kept = Vec::new();
        for known in std::mem::take(&mut self.kept) {
            let listeners = wanted.get(known.name.as_str());
            if listeners == Some(&known.listeners) && ca.as_ref().is_some_and(|ca| Arc::ptr_eq(ca, &known.ca)) {
                wanted.remove(known.name.as_str());
                kept.push(known);
                continue;
            }
            let stays = |listener| listeners.is_some_and(|listeners| listeners.contains(listener));
            for listener in known.listeners.iter().filter(|listener| !stays(listener)) {
                // There may be none.
                let _ = self.expires.remove_label_values(&[listener.as_str(), known.name.as_str()]);
            }
            if listeners.is_none() {
                self.issued.remove(&known.name);
            }
        }
        if let Some(ca) = &ca {
            for (name, listeners) in wanted {
                let keeper = Keeper::new(name, listeners.clone(), ca.clone());
                kept.push(Kept { name: name.to_owned(), listeners, ca: ca.clone(), task: tokio::spawn(keeper.keep()) });
            }
        }
        (self.ca, self.kept) = (ca, kept);
    }

    fn ca(&self, acme: &config::Acme) -> Ca {
        Ca {
            config: acme.clone(),
            vault: Vault::new(&acme.folder, &acme.directory),
            issued: self.issued.clone(),
            account: Mutex::default(),
            turns: Semaphore::new(ORDERS_AT_A_TIME),
            orders: self.orders.clone(),
            expires: self.expires.clone(),
        }
    }
}

impl Ca {
    fn client(&self) -> Result<Client, Failure> {
        let fix = "name a PEM file as `ca`, or have the system's installed (ca-certificates)";
        Client::new(self.config.ca.as_deref()).map_err(|error| Failure::here(format!("{error:#}"), fix))
    }

    /// The account that is on disk, or a new one.
    async fn account(&self, client: &Client) -> Result<Account, Failure> {
        let _alone = self.account.lock().await;
        let path = self.vault.account();
        let shown = path.display();
        let failed = |error: instant_acme::Error| Failure::of(&error, client.told());
        let builder = Account::builder_with_http(Box::new(client.clone()));
        let kept = Vault::read(&path).map_err(|error| {
            Failure::here(format!("`{shown}` cannot be read: {error}"), "let hopfall's user read it")
        })?;
        // The parser's own error may quote the key.
        match kept.map(|bytes| serde_json::from_slice::<AccountCredentials>(&bytes)) {
            Some(Ok(credentials)) => return builder.from_credentials(credentials).await.map_err(failed),
            Some(Err(_)) => {
                warn!("`{shown}` is no account: it is set aside, and a new account is made");
                Vault::set_aside(&path).map_err(unwritable)?;
            }
            None => {}
        }
        self.vault.can_write(&path).await.map_err(unwritable)?;
        let contact = self.config.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = self.config.external_account.as_ref();
        let external = external.map(|account| ExternalAccountKey::new(account.key_id.clone(), &account.hmac_key));
        let directory = self.config.directory.clone();
        let (account, credentials) = builder.create(&new, directory, external.as_ref()).await.map_err(failed)?;
        let bytes = serde_json::to_vec(&credentials).map_err(std::io::Error::other).map_err(unwritable)?;
        self.vault.write(&path, bytes).await.map_err(unwritable)?;
        info!("a new ACME account: {}", account.id());
        Ok(account)
    }

    /// The CA does not know this account any more: the next one is new, unless another name has made one meanwhile.
    async fn forget_account(&self, id: &str) {
        let _alone = self.account.lock().await;
        let path = self.vault.account();
        let kept = Vault::read(&path)
            .ok()
            .flatten()
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        if kept.is_none_or(|account| account["id"] != id) {
            return;
        }
        warn!("the CA does not know the account of `{}`: it is set aside, and a new one is made", path.display());
        if let Err(error) = Vault::set_aside(&path) {
            warn!("`{}` cannot be set aside: {error}", path.display());
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` hands it
fn unwritable(error: std::io::Error) -> Failure {
    Failure::here(
        format!("`folder` of acme cannot be written: {error}"),
        "let hopfall's user write there, or name another",
    )
}

const ORDERS_AT_A_TIME: usize = 4;
