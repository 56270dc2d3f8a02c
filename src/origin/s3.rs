//! An S3 bucket, as it is spoken to: GET and HEAD, signed afresh each time.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, header};
use log::{error, info, warn};
use pingora::http::RequestHeader;
use tokio::time::{Instant, sleep};

use super::bill::Bill;
use super::live::{Live, Upstream, connector, request_head};
use super::tls::Tls;
use crate::conditional;
use crate::config::{self, Addressing, OnDenied};
use crate::explain;
use crate::fallback::{Busy, Failure, Outcome};
use crate::hop::TargetId;
use crate::metrics::{Metrics, TargetMetrics};
use crate::pool::{Endpoint, Gate};
use crate::quiet::Quiet;
use crate::s3::answer::{self, Denied, ERROR_BYTES};
use crate::s3::key;
use crate::s3::sign::Signer;
use crate::via::{Hop, Identity};

pub struct S3Origin {
    pub config: config::Store,
    pub endpoint: Arc<Endpoint>,
    pub metrics: TargetMetrics,
    all_metrics: Arc<Metrics>,
    gate: Gate,
    upstream: Arc<Upstream>,
    signer: Signer,
    /// What a probe has learned of the bucket: one of the `BUCKET_*` values.
    bucket: AtomicU8,
    /// Of what an operator has to mend.
    quiet: Quiet,
    bill: Arc<Bill>,
    /// An endpoint may be a name that leads back to us.
    hop: Hop,
}

/// What a bucket answered for a key that it cannot have.
#[derive(Clone, Debug)]
pub struct Seen {
    pub status: u16,
    /// The error document's.
    pub code: Option<String>,
    /// Where the bucket says that it is.
    pub region: Option<String>,
    pub date: Option<SystemTime>,
}

const BUCKET_UNKNOWN: u8 = 0;
/// Absence is 404: a 403 is a true denial.
const BUCKET_SHOWS_KEYS: u8 = 1;
/// Absence is 403 AccessDenied.
const BUCKET_HIDES_KEYS: u8 = 2;
const BUCKET_MISSING: u8 = 3;

impl S3Origin {
    /// `before` is the store of this name under the config before this one.
    pub fn new(store: &config::Store, identity: &Identity, metrics: &Arc<Metrics>, before: Option<&S3Origin>) -> Self {
        let was = before.map(|before| &before.config);
        let same_place = was.is_some_and(|was| was.address == store.address);
        let same_bucket = was.is_some_and(|was| {
            (&was.bucket, &was.host, &was.credentials) == (&store.bucket, &store.host, &store.credentials)
        });
        let same_connections =
            same_place && was.is_some_and(|was| (was.bounds, was.tls, &was.ca) == (store.bounds, store.tls, &store.ca));
        let target_metrics = metrics.target(&store.name, &store.name);
        let bounds = store.bounds;
        S3Origin {
            endpoint: match before.filter(|_| same_place) {
                Some(before) => before.endpoint.clone(),
                None => Arc::new(Endpoint::new(store.address.clone())),
            },
            gate: Gate::new(
                bounds.max_in_flight,
                bounds.queue,
                bounds.queue_timeout,
                target_metrics.connections.clone(),
            ),
            metrics: target_metrics,
            all_metrics: metrics.clone(),
            upstream: match before.filter(|_| same_connections) {
                Some(before) => before.upstream.clone(),
                None => Upstream::new(connector(), bounds, Tls::to_store(store)),
            },
            signer: Signer::new(&store.credentials, &store.region, &store.host),
            bucket: AtomicU8::new(match before.filter(|_| same_bucket && same_place) {
                Some(before) => before.bucket.load(Ordering::Relaxed),
                None => BUCKET_UNKNOWN,
            }),
            quiet: Quiet::for_each(TELL_EVERY),
            bill: Arc::new(Bill::new(store, metrics, before.map(|before| before.bill.as_ref()))),
            hop: identity.hop(&store.name),
            config: store.clone(),
        }
    }

    pub fn target(&self) -> TargetId {
        self.config.target
    }

    /// Dollars spent on this UTC day, by the config's prices.
    pub fn spent_today(&self) -> f64 {
        self.bill.spent_today() as f64 / 1e9
    }

    /// Brings the metric of what today costs up to date: a new day begins without a request.
    pub fn measure(&self) {
        self.bill.measure();
    }

    /// The same in nanodollars.
    pub fn spent_today_exactly(&self) -> u64 {
        self.bill.spent_today()
    }

    /// Takes over what another process has spent on this day.
    pub fn spent_elsewhere(&self, nanodollars: u64) {
        self.bill.spent_elsewhere(nanodollars);
    }

    /// How it would be asked for an object, and what for, without what is secret. `None` for the key: no object can have
    /// the name. What is on the disk is not known here.
    pub fn explain(&self, method: &Method, key: Option<&str>) -> explain::S3 {
        let signed = key.and_then(|key| {
            let path = self.path(key);
            let signed = self.signer.describe(SystemTime::now()).ok()?;
            let scheme = if self.config.tls { "https" } else { "http" };
            Some(explain::Signed {
                method: method.to_string(),
                url: format!("{scheme}://{}{path}", self.config.address),
                host: self.config.host.clone(),
                headers: signed.fields.into_iter().map(str::to_owned).collect(),
                scope: signed.scope,
                access_key: shortened(signed.access_key),
            })
        });
        explain::S3 {
            asked: signed.is_some() && !self.bill.is_over(),
            request: signed,
            disk: explain::Disk::None,
            absent_is: match self.bucket.load(Ordering::Relaxed) {
                BUCKET_SHOWS_KEYS => "404",
                BUCKET_HIDES_KEYS => "403",
                _ => "unknown",
            }
            .to_owned(),
            dollars_per_request: self.config.prices.request as f64 / 1e9,
            dollars_per_gibibyte: self.config.prices.gibibyte as f64 / 1e9,
            dollars_today: self.spent_today(),
            dollars_left: self.bill.left().map(|left| left as f64 / 1e9),
        }
    }

    /// Its connections, and their bounds.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Whether it is known how this bucket says "absent".
    pub fn is_known(&self) -> bool {
        matches!(self.bucket.load(Ordering::Relaxed), BUCKET_SHOWS_KEYS | BUCKET_HIDES_KEYS)
    }

    /// Asks for a random key, to learn how this bucket says "absent". False when there is no clear answer yet.
    pub async fn probe(&self) -> bool {
        let random = format!("hopfall-probe/{:032x}", rand::random::<u128>());
        let key = format!("{}{random}", self.config.prefix);
        let deadline = Instant::now() + self.config.bounds.connect_timeout + self.config.bounds.header_timeout;
        let Ok(mut answer) = self.send(&Method::GET, &key, &HeaderMap::new(), deadline).await else { return false };
        let document = answer.peek_body(ERROR_BYTES, deadline).await;
        let status = answer.status();
        answer.discard().await;
        let code = answer::error_code(&document);
        let learned = match (status, code) {
            (404, Some("NoSuchBucket")) => BUCKET_MISSING,
            (404, _) => BUCKET_SHOWS_KEYS,
            (403, Some("AccessDenied")) => BUCKET_HIDES_KEYS,
            _ => BUCKET_UNKNOWN,
        };
        let before = self.bucket.swap(learned, Ordering::Relaxed);
        let name = &self.config.name;
        match learned {
            BUCKET_UNKNOWN | BUCKET_MISSING => self.tell(status, code),
            _ if learned == before => {}
            BUCKET_SHOWS_KEYS => info!("store {name}: a missing key is 404 here, so a 403 is a denial"),
            _ => info!("store {name}: a missing key is 403 here (the credentials may not list the bucket)"),
        }
        matches!(learned, BUCKET_SHOWS_KEYS | BUCKET_HIDES_KEYS)
    }

    /// Asks for a random key, and tells what came: for who examines a bucket.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn look(&self) -> Result<Seen, Outcome> {
        let key = format!("{}hopfall-probe/{:032x}", self.config.prefix, rand::random::<u128>());
        let deadline = Instant::now() + self.config.bounds.connect_timeout + self.config.bounds.header_timeout;
        let mut answer = self.send(&Method::GET, &key, &HeaderMap::new(), deadline).await?;
        let document = answer.peek_body(ERROR_BYTES, deadline).await;
        let field = |name: &str| answer.head().headers.get(name).and_then(|value| value.to_str().ok());
        let region = field("x-amz-bucket-region").or_else(|| answer::element(&document, "Region"));
        let seen = Seen {
            status: answer.status(),
            code: answer::error_code(&document).map(str::to_owned),
            region: region.map(str::to_owned),
            date: field("date").and_then(|date| httpdate::parse_http_date(date).ok()),
        };
        answer.discard().await;
        Ok(seen)
    }

    async fn denied(&self) -> Denied {
        match self.config.on_403 {
            OnDenied::NotFound => return Denied::MeansAbsent,
            OnDenied::Error => return Denied::MeansDenied,
            OnDenied::Probe => {}
        }
        if self.bucket.load(Ordering::Relaxed) == BUCKET_UNKNOWN {
            self.probe().await;
        }
        match self.bucket.load(Ordering::Relaxed) {
            BUCKET_HIDES_KEYS => Denied::MeansAbsent,
            _ => Denied::MeansDenied,
        }
    }

    async fn send(&self, method: &Method, key: &str, fields: &HeaderMap, deadline: Instant) -> Result<Live, Outcome> {
        let address = self.endpoint.address().ok_or(Outcome::Down(Failure::DnsError))?;
        let permit = self.gate.enter_by(deadline).await.ok_or(Outcome::Busy(Busy::Full))?;
        // Signed after the wait for a place, because the time is part of it.
        let request = self.request(method, key, fields).map_err(|error| {
            warn!("store {}: a request could not be made: {error:#}", self.config.name);
            Outcome::Down(Failure::ProxyInternalError)
        })?;
        let mut sending = Sending { store: self, method, status: None, may_be_sent: true };
        let mut sent = self.upstream.exchange(address, &request, deadline, &self.metrics.connects, permit).await;
        sending.status = sent.as_ref().ok().map(Live::status);
        sending.may_be_sent = !matches!(sent, Err(Outcome::Down(_) | Outcome::Busy(_)));
        drop(sending);
        if let Ok(live) = &mut sent {
            live.bill_to(self.bill.clone());
        }
        sent
    }

    /// What a request for this object has as its path.
    fn path(&self, key: &str) -> String {
        let key = key::encode(key);
        match self.config.addressing {
            Addressing::Path => format!("/{}/{key}", self.config.bucket),
            Addressing::Virtual => format!("/{key}"),
        }
    }

    fn request(&self, method: &Method, key: &str, fields: &HeaderMap) -> anyhow::Result<RequestHeader> {
        let path = self.path(key);
        let signed = self.signer.headers(method, &path, SystemTime::now())?;
        let mut sent = HeaderMap::with_capacity(fields.len() + signed.len() + 3);
        sent.append(header::HOST, HeaderValue::from_str(&self.config.host)?);
        sent.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        sent.extend(signed);
        sent.extend(self.hop.after(&HeaderMap::new()));
        Ok(request_head(method, path.as_bytes(), sent)?)
    }

    /// What an answer means, reading its error document where the status alone does not say.
    async fn judge(&self, key: &str, method: &Method, ranged: bool, received: &mut Live, deadline: Instant) -> Outcome {
        let status = received.status();
        if status == 206 && !ranged {
            // A part that nobody asked for would be taken for the whole.
            return Outcome::Error(502);
        }
        if matches!(status, 200 | 206 | 304 | 412 | 416) {
            return Outcome::Found(status);
        }
        let (status, code) = match *method {
            Method::HEAD if status == 404 => {
                if self.bucket.load(Ordering::Relaxed) == BUCKET_MISSING {
                    (404, Some("NoSuchBucket".to_owned()))
                } else {
                    (404, None)
                }
            }
            // A HEAD's error has no document, and guessing would call a broken key an absent file.
            Method::HEAD if status < 500 => {
                received.leave();
                match self.first_byte(key, deadline).await {
                    Ok((status, _)) if status < 400 => return Outcome::Error(502),
                    Ok(told) => told,
                    Err(outcome) => return outcome,
                }
            }
            Method::HEAD => (status, None),
            _ => (status, answer::error_code(&received.peek_body(ERROR_BYTES, deadline).await).map(str::to_owned)),
        };
        let code = code.as_deref();
        received.leave();
        let denied =
            if status == 403 && code == Some("AccessDenied") { self.denied().await } else { Denied::MeansDenied };
        let outcome = answer::outcome(status, code, denied);
        if let Outcome::Misconfigured(_) = outcome {
            self.tell(status, code);
        }
        outcome
    }

    async fn first_byte(&self, key: &str, deadline: Instant) -> Result<(u16, Option<String>), Outcome> {
        let mut fields = HeaderMap::new();
        fields.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let mut answer = self.send(&Method::GET, key, &fields, deadline).await?;
        let status = answer.status();
        let document = if status >= 400 { answer.peek_body(ERROR_BYTES, deadline).await } else { Vec::new() };
        answer.discard().await;
        Ok((status, answer::error_code(&document).map(str::to_owned)))
    }

    /// Asks for an object, with the fields that the store may see. An answer is there whenever a head was read.
    pub async fn fetch(
        &self,
        method: &Method,
        key: &str,
        fields: &HeaderMap,
        deadline: Instant,
    ) -> (Outcome, Option<Live>) {
        if self.bill.is_over() {
            return (Outcome::Busy(Busy::Full), None);
        }
        let mut fields = Cow::Borrowed(fields);
        let mut retried = false;
        loop {
            let mut answer = match self.send(method, key, &fields, deadline).await {
                Ok(answer) => answer,
                Err(outcome) => return (outcome, None),
            };
            if is_part_of_another_version(&answer, &fields) {
                answer.discard().await;
                fields.to_mut().remove(header::RANGE);
                fields.to_mut().remove(header::IF_RANGE);
                continue;
            }
            let outcome = self.judge(key, method, fields.contains_key(header::RANGE), &mut answer, deadline).await;
            // S3 asks for a pause with 503 SlowDown: one, jittered, if there is time for it.
            let pause = Duration::from_millis(100 + u64::from(rand::random::<u8>()));
            let busy = matches!(outcome, Outcome::Busy(Busy::Status(_)));
            if busy && !retried && Instant::now() + pause < deadline {
                retried = true;
                answer.discard().await;
                sleep(pause).await;
                continue;
            }
            return (outcome, Some(answer));
        }
    }

    /// These bytes of the very object that `fields` describe, whose beginning has gone out already. `None` when they
    /// cannot be had, or nothing shows that they are of the same object.
    pub async fn part(&self, key: &str, fields: &HeaderMap, bytes: Range<u64>, deadline: Instant) -> Option<Live> {
        let etag = fields.get(header::ETAG).filter(|etag| conditional::is_strong(etag.as_bytes()))?;
        let mut asked = HeaderMap::with_capacity(2);
        asked.insert(header::IF_MATCH, etag.clone());
        let range = format!("bytes={}-{}", bytes.start, bytes.end.checked_sub(1)?);
        asked.insert(header::RANGE, HeaderValue::from_str(&range).ok()?);
        let (outcome, live) = self.fetch(&Method::GET, key, &asked, deadline).await;
        let live = live?;
        let given = live.head();
        let span = given.headers.get(header::CONTENT_RANGE).and_then(|span| span.to_str().ok()).unwrap_or_default();
        let promised = format!("bytes {}-{}/", bytes.start, bytes.end - 1);
        let same = given.headers.get(header::ETAG) == Some(etag) && span.starts_with(&promised);
        if outcome == Outcome::Found(206) && same {
            return Some(live);
        }
        live.discard().await;
        None
    }

    /// Tells an operator what to mend.
    fn tell(&self, status: u16, code: Option<&str>) {
        if self.quiet.is_over(Instant::now().into_std()) {
            let (name, bucket) = (&self.config.name, &self.config.bucket);
            let advice = answer::advice(status, code);
            error!("store {name}: bucket {bucket} answered {status} {}: {advice}", code.unwrap_or("without a code"));
        }
    }
}

/// A request on its way. When it ends it is counted, and paid for if it may have been sent: even if nobody waits for the
/// answer any more.
struct Sending<'a> {
    store: &'a S3Origin,
    method: &'a Method,
    status: Option<u16>,
    may_be_sent: bool,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let code = self.status.map_or_else(|| "error".to_owned(), |status| status.to_string());
        self.store.all_metrics.s3_requests.with_label_values(&[self.method.as_str(), code.as_str()]).inc();
        if self.may_be_sent {
            self.store.bill.request();
        }
    }
}

const TELL_EVERY: Duration = Duration::from_secs(10);

/// Enough of an access key's id to know it by.
fn shortened(id: &str) -> String {
    let known: String = id.chars().take(4).collect();
    format!("{known}…")
}

fn is_part_of_another_version(answer: &Live, asked: &HeaderMap) -> bool {
    let Some(if_range) = asked.get(header::IF_RANGE).filter(|_| answer.status() == 206) else { return false };
    let field = |name| answer.head().headers.get(name).map(HeaderValue::as_bytes);
    !conditional::if_range_holds(if_range.as_bytes(), field(header::ETAG), field(header::LAST_MODIFIED))
}
