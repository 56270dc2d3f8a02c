//! Keeps one name certified.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use humantime::format_duration;
use instant_acme::Account;
use log::{debug, error, info, warn};
use tokio::time::{Instant, sleep, timeout};

use super::Ca;
use super::certificate::Certificate;
use super::failure::{Failure, plain};
use super::order::order;
use super::vault::Vault;
use crate::renewal::{self, Dice, Setback, Span};
use crate::tls::Dated;
use crate::unix;

pub struct Keeper {
    name: String,
    /// Those that have the name.
    listeners: Vec<String>,
    ca: Arc<Ca>,
    current: Option<Certificate>,
}

/// What the CA suggests for the current certificate, and when it may be asked again.
struct Advice {
    window: Option<Span>,
    ask: Instant,
    dice: Dice,
}

impl Advice {
    fn none_yet() -> Self {
        Advice { window: None, ask: Instant::now(), dice: Dice::new(rand::random()) }
    }
}

impl Keeper {
    /// With the certificate that is on disk, if it can be used.
    pub(super) fn new(name: &str, listeners: Vec<String>, ca: Arc<Ca>) -> Self {
        for result in ["success", "failure"] {
            // There from the beginning, so that the first failure is seen as a rise.
            ca.orders.with_label_values(&[name, result]);
        }
        let mut keeper = Keeper { name: name.to_owned(), listeners, ca, current: None };
        let path = keeper.ca.vault.certificate(name);
        let kept = Vault::read(&path).map_err(anyhow::Error::from);
        match kept.and_then(|pem| pem.map(|pem| Certificate::from_pem(&pem, name)).transpose()) {
            Ok(Some(certificate)) => keeper.use_it(certificate),
            Ok(None) => {}
            Err(error) => warn!("`{}` cannot be used, and is replaced: {error:#}", path.display()),
        }
        keeper
    }

    /// For ever.
    pub async fn keep(mut self) {
        let mut failures = 0;
        let mut advice = Advice::none_yet();
        // The CA's word alone cannot have us order without pause.
        let mut earliest = Instant::now();
        loop {
            if let Some(current) = &self.current {
                if advice.ask <= Instant::now() {
                    self.ask_for(&mut advice, current).await;
                }
                let due = renewal::due(current.leaf.life, advice.window, advice.dice);
                let wait = Duration::from_secs(
                    u64::try_from(due.saturating_sub(unix::signed_seconds(SystemTime::now()))).unwrap_or(0),
                );
                let wait = wait.max(earliest.saturating_duration_since(Instant::now()));
                if !wait.is_zero() {
                    debug!("{}: to be renewed in {}", self.name, format_duration(wait));
                    sleep(wait.min(advice.ask.saturating_duration_since(Instant::now())).min(LONGEST_NAP)).await;
                    continue;
                }
            }
            match self.renew().await {
                Ok(certificate) => {
                    let until = date(certificate.leaf.life.to);
                    self.use_it(certificate);
                    self.count("success");
                    info!("{}: a new certificate, good until {until}", self.name);
                    (failures, advice) = (0, Advice::none_yet());
                    earliest = Instant::now() + LEAST_PAUSE;
                }
                Err(failure) => {
                    failures += 1;
                    self.count("failure");
                    let pause = renewal::pause(failures, failure.setback, failure.told, Dice::new(rand::random()));
                    self.tell(&failure, pause);
                    sleep(pause).await;
                }
            }
        }
    }

    /// New handshakes use it from here on.
    fn use_it(&mut self, certificate: Certificate) {
        for listener in &self.listeners {
            let expires = self.ca.expires.with_label_values(&[listener.as_str(), self.name.as_str()]);
            expires.set(certificate.leaf.life.to);
        }
        let (certified, life) = (certificate.key.clone(), certificate.leaf.life);
        self.ca.issued.install(&self.name, &Dated { certified, life });
        self.current = Some(certificate);
    }

    async fn renew(&self) -> Result<Certificate, Failure> {
        // Never closed.
        let _turn = self.ca.turns.acquire().await;
        let result = match self.order().await {
            // It is forgotten by now.
            Err(failure) if failure.account_unknown => self.order().await,
            result => result,
        };
        let pem = result?;
        let fix = "look at what the CA says of it";
        let certificate = Certificate::from_pem(pem.as_bytes(), &self.name).map_err(|error| Failure {
            setback: Setback::Refused,
            ..Failure::here(format!("the CA's answer: {error:#}"), fix)
        })?;
        let path = self.ca.vault.certificate(&self.name);
        if let Err(error) = self.ca.vault.write(&path, pem.into_bytes()).await {
            error!(
                "`{}` cannot be written: {error}; the new certificate is used, and lost at the next start",
                path.display()
            );
        }
        Ok(certificate)
    }

    async fn order(&self) -> Result<String, Failure> {
        self.ca.vault.can_write(&self.ca.vault.certificate(&self.name)).await.map_err(super::unwritable)?;
        let client = self.ca.client()?;
        let ordering = async {
            let account = self.ca.account(&client).await?;
            let replaces = self.current.as_ref().and_then(Certificate::identifier);
            let ordered = order(&account, &self.name, replaces, &self.ca.issued).await;
            let failure = match ordered {
                Ok(pem) => return Ok(pem),
                Err(error) => Failure::of(&error, client.told()),
            };
            if failure.account_unknown {
                self.ca.forget_account(account.id()).await;
            }
            Err(failure)
        };
        timeout(LONGEST_ORDER, ordering).await.unwrap_or_else(|_| {
            Err(Failure::here(format!("not done within {LONGEST_ORDER:?}"), "look whether the CA has an incident"))
        })
    }

    /// Asks the CA when the certificate should be renewed. Without an answer what it said before holds.
    async fn ask_for(&self, advice: &mut Advice, current: &Certificate) {
        let asked = timeout(LONGEST_ORDER, self.suggestion(current)).await;
        let again = match asked.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(Some((window, why, again))) => {
                if advice.window != Some(window) {
                    let (from, to) = (date(window.from), date(window.to));
                    info!("{}: the CA suggests to renew it from {from} to {to}{why}", self.name);
                }
                advice.window = Some(window);
                renewal::ask_again(again)
            }
            Ok(None) => {
                advice.window = None;
                LONGEST_NAP
            }
            Err(why) => {
                info!("{}: the CA does not say when to renew it: {why}", self.name);
                ASK_AFTER_FAILURE
            }
        };
        advice.ask = Instant::now() + again;
    }

    /// The window, where the CA explains it, and how soon it may be asked again; `None` from a CA that suggests none.
    async fn suggestion(&self, current: &Certificate) -> Result<Option<(Span, String, Duration)>, String> {
        let Some(identifier) = current.identifier() else { return Ok(None) };
        let client = self.ca.client().map_err(|failure| failure.what)?;
        let account: Account = self.ca.account(&client).await.map_err(|failure| failure.what)?;
        match account.renewal_info(&identifier).await {
            Ok((info, again)) => {
                let window = info.suggested_window;
                let window = Span { from: window.start.unix_timestamp(), to: window.end.unix_timestamp() };
                let why = info.explanation_url.map(|url| format!(", see {}", plain(&url))).unwrap_or_default();
                Ok(Some((window, why, again)))
            }
            Err(instant_acme::Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(plain(&error.to_string())),
        }
    }

    fn tell(&self, failure: &Failure, pause: Duration) {
        let Failure { what, fix, .. } = failure;
        let again = format_duration(Duration::from_secs(pause.as_secs()));
        match &self.current {
            None => error!("{}: no certificate yet: {what}; fix: {fix}; tried again in {again}", self.name),
            Some(current) => {
                let life = current.leaf.life;
                let level = if life.is_ending(unix::signed_seconds(SystemTime::now())) {
                    log::Level::Error
                } else {
                    log::Level::Warn
                };
                let until = date(life.to);
                log::log!(
                    level,
                    "{}: its certificate is not renewed, the one there is goes on until {until}: {what}; fix: {fix}; \
                     tried again in {again}",
                    self.name
                );
            }
        }
    }

    fn count(&self, result: &str) {
        self.ca.orders.with_label_values(&[self.name.as_str(), result]).inc();
    }
}

fn date(unix: i64) -> String {
    jiff::Timestamp::from_second(unix).map_or_else(|_| unix.to_string(), |time| time.to_string())
}

/// Between two certificates of a name.
const LEAST_PAUSE: Duration = Duration::from_secs(3600);
/// So that a clock that was set, or a machine that slept, is noticed.
const LONGEST_NAP: Duration = Duration::from_secs(6 * 3600);
const ASK_AFTER_FAILURE: Duration = Duration::from_secs(3600);
const LONGEST_ORDER: Duration = Duration::from_secs(300);
