//! A store as the chain asks it: from its disk, from what another request has asked for already, else from S3.
//!
//! - A file on the disk is served while it is fresh, and after that while S3 is asked on the side, or fails
//!   ([`freshness`]).
//! - A file that is not there is asked for once, whole: a [`Tape`] feeds all that want it meanwhile, and the disk.
//! - What can be neither kept nor shared is asked for by each request on its own, as it was put.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use log::{debug, warn};
use prometheus::IntCounterVec;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Held, Source};
use super::live::{Live, Upstream};
use super::s3::S3Origin;
use super::tape::{Reader, Room, Tape};
use super::{Answer, Ask, Asked, Origin};
use crate::conditional::begins_at;
use crate::disk::{self, Disk, Figures, Meta, Object, Writer};
use crate::explain;
use crate::fallback::{Busy, Failure, Outcome};
use crate::flight::{Flight, Flights, Following, Seat};
use crate::freshness::{self, Freshness};
use crate::headers;
use crate::metrics::{DiskMetrics, Metrics};
use crate::s3::key;
use crate::trip::Cached;

/// A handle; its clones are of the same store.
#[derive(Clone)]
pub struct StoreOrigin {
    pub s3: Arc<S3Origin>,
    shared: Arc<Shared>,
}

struct Shared {
    kept: Option<Kept>,
    /// What S3 is being asked for.
    flights: Arc<Flights<String, Word>>,
    room: Room,
    /// How often something was purged, of this store and of those before it that had its disk.
    purges: Arc<AtomicU64>,
    requests: IntCounterVec,
    began: Instant,
}

/// What is kept on the disk.
struct Kept {
    disk: Arc<Disk>,
    /// Before each key: of which bucket it is, so that a folder which another bucket had shows nothing of it.
    scope: String,
    rules: freshness::Rules,
    metrics: DiskMetrics,
    /// Until when the disk, which did not answer in time, is left alone; in milliseconds since `began`.
    disk_rests: AtomicU64,
    /// Until when S3, which failed, is not asked on the side whether stale files are still good.
    side_rests: AtomicU64,
}

/// An object of the disk.
struct Copy {
    object: Object,
    fields: HeaderMap,
    age: Duration,
    freshness: Freshness,
}

/// What a flight has come to.
#[derive(Clone)]
enum Word {
    /// A body that all may read.
    Tape(Arc<Tape>),
    /// The copy on the disk is good again.
    Fresh,
    /// The store's answer is no file.
    Nothing(Outcome),
    /// Each must ask by itself.
    Alone,
}

/// A body that is being taken in.
struct Recording {
    tape: Arc<Tape>,
    /// Of a tape that is on the disk.
    writer: Option<Writer>,
    meta: Meta,
    /// How many purges there had been when it was asked for.
    purges: u64,
}

/// What came of leading a flight.
enum Led {
    Reader(Reader),
    /// The copy is good, under these fields.
    Fresh(HeaderMap),
    Nothing(Outcome),
    /// An answer that is for the leader alone, to a request for the whole file.
    Alone(Box<Live>),
}

impl Kept {
    /// The name under which the disk knows the object of this key.
    fn key(&self, key: &str) -> String {
        [self.scope.as_str(), key].concat()
    }
}

impl StoreOrigin {
    /// `holder` has the store's folder open already, under the config before this one.
    pub fn new(s3: S3Origin, holder: Option<&StoreOrigin>, metrics: &Metrics) -> Self {
        let store = &s3.config;
        let open = |settings: &disk::Settings| match holder.and_then(StoreOrigin::disk) {
            Some(disk) => Ok(disk.clone()),
            None => Disk::open(settings.clone()),
        };
        let counted = holder.map(StoreOrigin::measure).unwrap_or_default();
        let kept = store.disk.as_ref().and_then(|disk| match open(&disk.settings) {
            Ok(opened) => Some(Kept {
                disk: opened,
                scope: format!("{} {}\n", store.bucket, store.host),
                rules: disk.rules,
                metrics: DiskMetrics::new(metrics, &store.name, disk.settings.bytes, counted),
                disk_rests: AtomicU64::new(0),
                side_rests: AtomicU64::new(0),
            }),
            // Serving goes on from S3.
            Err(error) => {
                let path = disk.settings.path.display();
                log::error!("store {}: its disk is not used: {path} cannot be opened: {error}", store.name);
                metrics.store_ready.with_label_values(&[store.name.as_str()]).set(0);
                None
            }
        });
        let shared = Shared {
            kept,
            flights: Arc::default(),
            room: Room::new(store.shared_memory),
            purges: holder.map(|holder| holder.shared.purges.clone()).unwrap_or_default(),
            requests: metrics.store_requests.clone(),
            began: Instant::now(),
        };
        StoreOrigin { s3: Arc::new(s3), shared: Arc::new(shared) }
    }

    /// Its folder, if it has one open.
    pub fn disk(&self) -> Option<&Arc<Disk>> {
        self.shared.kept.as_ref().map(|kept| &kept.disk)
    }

    /// Brings the metrics of the disk, and of what today costs, up to date. Gives what the disk says of itself.
    pub fn measure(&self) -> Figures {
        self.s3.measure();
        let Some(kept) = &self.shared.kept else { return Figures::default() };
        kept.metrics.measure(|| kept.disk.figures())
    }

    /// Forgets the file at this path, or all whose path begins so. What is under way of them is not kept. Gives how
    /// many were on the disk.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub async fn purge(&self, path: &[u8], prefix: bool) -> std::io::Result<usize> {
        // Who asks from here on is not fed what was asked for before.
        self.shared.purges.fetch_add(1, Ordering::AcqRel);
        self.shared.flights.clear();
        let Some(kept) = &self.shared.kept else { return Ok(0) };
        let own = &self.s3.config.prefix;
        match (prefix, path) {
            (true, b"/") => kept.disk.remove_prefix(&kept.key(own)).await,
            (true, _) => match key::object_key(own, path) {
                Some(key) => kept.disk.remove_prefix(&kept.key(&key)).await,
                None => Ok(0),
            },
            (false, _) => match key::object_key(own, path) {
                Some(key) => kept.disk.remove(&kept.key(&key)).await.map(usize::from),
                None => Ok(0),
            },
        }
    }

    /// How it would answer for the path of `target`. Nothing is asked of S3, and what is kept is as likely to go as before.
    pub async fn explain(&self, method: &Method, target: &[u8]) -> explain::S3 {
        let key = key::object_key(&self.s3.config.prefix, target);
        let mut told = self.s3.explain(method, key.as_deref());
        let Some((kept, key)) = self.awake().zip(key) else { return told };
        let found = timeout(DISK_PATIENCE, kept.disk.peek(&kept.key(&key))).await.ok().flatten();
        told.disk = match found {
            None => explain::Disk::NotKept,
            Some((meta, bytes)) => {
                let age = SystemTime::now().duration_since(meta.stored_at).unwrap_or_default();
                match freshness::judge(&fields_of(&meta), age, &kept.rules) {
                    Freshness::Fresh(left) => explain::Disk::Fresh { left: left.as_secs_f64(), bytes },
                    Freshness::Stale { since, while_revalidating, if_error } => {
                        explain::Disk::Stale { since: since.as_secs_f64(), bytes, while_revalidating, if_error }
                    }
                }
            }
        };
        told.asked &= !matches!(told.disk, explain::Disk::Fresh { .. });
        told
    }

    async fn answer(&self, key: &str, ask: &Ask<'_>) -> Asked {
        // A flight that ends without a word is tried again, and in the end each asks by itself.
        for _ in 0..TRIES {
            let copy = match self.copy(key).await {
                Some(copy) => match copy.freshness {
                    Freshness::Fresh(left) => return self.of_copy(key, ask, copy, Cached::Hit(left.as_secs())),
                    Freshness::Stale { since, while_revalidating: true, .. } => {
                        self.revalidate_aside(key, &copy.fields);
                        return self.of_copy(key, ask, copy, Cached::Stale(since.as_secs()));
                    }
                    Freshness::Stale { .. } => Some(copy),
                },
                None => None,
            };
            let seat = if copy.is_some() || self.may_lead(ask) {
                self.shared.flights.join(&key.to_owned())
            } else {
                match self.shared.flights.follow(&key.to_owned()) {
                    Some(following) => Seat::Follow(following),
                    None => break,
                }
            };
            let outcome = match seat {
                Seat::Lead(flight) => {
                    match self.lead(key, copy.as_ref().map(|copy| &copy.fields), flight, ask.deadline).await {
                        Led::Reader(reader) => return self.of_tape(key, ask, reader, Cached::Miss),
                        Led::Fresh(fields) => match copy {
                            Some(copy) => {
                                let fresh = Copy { fields, age: Duration::ZERO, ..copy };
                                return self.of_copy(key, ask, fresh, Cached::Revalidated);
                            }
                            // Nothing was there to be fresh.
                            None => break,
                        },
                        Led::Nothing(outcome) => outcome,
                        // It is no answer to a HEAD, nor to what a range or a condition asks for.
                        Led::Alone(live) if *ask.method == Method::GET && ask.for_store.is_empty() => {
                            return self.asked(Outcome::Found(live.status()), Some(Answer::Live(live)), Cached::Bypass);
                        }
                        Led::Alone(live) => {
                            live.discard().await;
                            break;
                        }
                    }
                }
                Seat::Follow(following) => match self.follow(following, ask).await {
                    // It would wait for all that comes before.
                    Some(Word::Tape(tape)) if !tape.is_near(begins_at(ask.for_store)) => break,
                    Some(Word::Tape(tape)) => match tape.read() {
                        Some(reader) => return self.of_tape(key, ask, reader, Cached::Collapsed),
                        None => continue,
                    },
                    Some(Word::Nothing(outcome)) => outcome,
                    Some(Word::Fresh) | None => continue,
                    Some(Word::Alone) => break,
                },
            };
            if let Some(copy) = copy
                && let Freshness::Stale { since, if_error: true, .. } = copy.freshness
                && !matches!(outcome, Outcome::Absent(_))
            {
                return self.of_copy(key, ask, copy, Cached::Stale(since.as_secs()));
            }
            return self.asked(outcome, None, Cached::Miss);
        }
        let (outcome, live) = self.s3.fetch(ask.method, key, ask.for_store, ask.deadline).await;
        self.asked(outcome, live.map(|live| Answer::Live(Box::new(live))), Cached::Bypass)
    }

    /// Whether to ask for the whole file because of this request. A part that does not begin at the start would wait
    /// for all before it; and where nothing is kept, a request with conditions is best asked as it is.
    fn may_lead(&self, ask: &Ask<'_>) -> bool {
        let from_start = *ask.method == Method::GET && begins_at(ask.for_store) == Some(0);
        from_start && (self.shared.kept.is_some() || ask.for_store.is_empty())
    }

    /// What the disk has of it.
    async fn copy(&self, key: &str) -> Option<Copy> {
        let kept = self.awake()?;
        let object = self.soon(kept.disk.get(&kept.key(key))).await??;
        let fields = fields_of(object.meta());
        let age = SystemTime::now().duration_since(object.meta().stored_at).unwrap_or_default();
        let freshness = freshness::judge(&fields, age, &kept.rules);
        Some(Copy { object, fields, age, freshness })
    }

    /// What is kept, unless its disk is left alone.
    fn awake(&self) -> Option<&Kept> {
        self.shared.kept.as_ref().filter(|kept| self.now() >= kept.disk_rests.load(Ordering::Relaxed))
    }

    /// What the disk does, if it does it in time: while a client waits.
    async fn soon<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let done = timeout(DISK_PATIENCE, work).await.ok();
        if done.is_none() {
            self.disk_is_silent();
        }
        done
    }

    fn disk_is_silent(&self) {
        let Some(kept) = &self.shared.kept else { return };
        warn!("store {}: its disk does not answer, and is left alone for {DISK_REST:?}", self.s3.config.name);
        kept.metrics.is_silent();
        kept.disk_rests.store(self.now() + millis(DISK_REST), Ordering::Relaxed);
    }

    fn of_copy(&self, key: &str, ask: &Ask<'_>, copy: Copy, cached: Cached) -> Asked {
        let Copy { object, fields, age, .. } = copy;
        let answer = Answer::Held(Box::new(Held::of_object(ask, object, fields, age, self.source(key))));
        self.asked(Outcome::Found(answer.status()), Some(answer), cached)
    }

    fn of_tape(&self, key: &str, ask: &Ask<'_>, reader: Reader, cached: Cached) -> Asked {
        let answer = Answer::Held(Box::new(Held::of_tape(ask, reader, self.source(key))));
        self.asked(Outcome::Found(answer.status()), Some(answer), cached)
    }

    fn asked(&self, outcome: Outcome, answer: Option<Answer>, cached: Cached) -> Asked {
        self.shared.requests.with_label_values(&[self.s3.config.name.as_str(), cached.as_str()]).inc();
        let tells = self.shared.kept.is_some() || cached == Cached::Collapsed;
        Asked { outcome, answer, cached: tells.then_some(cached) }
    }

    fn source(&self, key: &str) -> Source {
        Source { s3: self.s3.clone(), key: key.to_owned() }
    }

    /// Waits for the leader's word, until the request's own deadline.
    async fn follow(&self, mut following: Following<Word>, ask: &Ask<'_>) -> Option<Word> {
        match timeout_at(ask.deadline, following.word(|_| true)).await {
            Ok(word) => word,
            Err(_) => Some(Word::Nothing(Outcome::Broken(Failure::HttpResponseTimeout))),
        }
    }

    /// Asks S3 for the whole file, or whether the copy is still good, and tells all that follow.
    async fn lead(&self, key: &str, copy: Option<&HeaderMap>, flight: Flight<String, Word>, deadline: Instant) -> Led {
        let mut asked = HeaderMap::new();
        if let Some(fields) = copy {
            let conditions =
                [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
            for (validator, condition) in conditions {
                if let Some(value) = fields.get(validator) {
                    asked.insert(condition, value.clone());
                }
            }
        }
        let (sent, purges) = (Instant::now(), self.shared.purges.load(Ordering::Acquire));
        let (outcome, live) = self.s3.fetch(&Method::GET, key, &asked, deadline).await;
        match (outcome, live, copy) {
            (Outcome::Found(304), Some(live), Some(copy)) => {
                let answered = headers::for_client(&live.head().headers, true);
                let mut fields = freshness::updated(copy, &answered);
                let meta = meta(&mut fields, sent.elapsed());
                live.finish().await;
                if let Some(kept) = self.awake() {
                    self.soon(kept.disk.refresh(&kept.key(key), &meta)).await;
                }
                flight.tell(Word::Fresh);
                Led::Fresh(fields)
            }
            (Outcome::Found(200), Some(live), copy) => {
                // What may not be kept any more takes along what was kept.
                if copy.is_some() && !freshness::may_keep(200, &live.head().headers) {
                    self.drop_copy(key).await;
                }
                self.share(key, live, flight, sent.elapsed(), purges).await
            }
            (outcome, live, copy) => {
                if let Some(live) = live {
                    live.discard().await;
                }
                if let (Outcome::Absent(_), Some(_)) = (outcome, copy) {
                    self.drop_copy(key).await;
                }
                let unasked = matches!(outcome, Outcome::Dropped | Outcome::Busy(Busy::Full));
                // Others may have more time left, and ask by themselves.
                if !unasked || Instant::now() < deadline {
                    flight.tell(Word::Nothing(outcome));
                }
                Led::Nothing(outcome)
            }
        }
    }

    /// Puts a whole answer onto a tape, and the tape onto the disk, if it may be and there is room.
    async fn share(&self, key: &str, live: Live, flight: Flight<String, Word>, delay: Duration, purges: u64) -> Led {
        let mut fields = headers::for_client(&live.head().headers, true);
        let length = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let may_keep = freshness::may_keep(200, &fields);
        let meta = meta(&mut fields, delay);
        let recording = match length.filter(|_| may_keep) {
            Some(length) => self.recording(key, fields, length, meta, purges, flight.followers()).await,
            None => None,
        };
        let reader = recording.as_ref().and_then(|recording| recording.tape.read());
        let (Some(recording), Some(reader)) = (recording, reader) else {
            flight.tell(Word::Alone);
            return Led::Alone(Box::new(live));
        };
        flight.tell(Word::Tape(recording.tape.clone()));
        let (store, key) = (self.clone(), key.to_owned());
        tokio::spawn(async move {
            store.record(&key, recording, live).await;
            // Only now others look on the disk, or ask anew.
            drop(flight);
        });
        Led::Reader(reader)
    }

    /// Room for a body: in memory, else on the disk.
    async fn recording(
        &self,
        key: &str,
        fields: HeaderMap,
        length: u64,
        meta: Meta,
        purges: u64,
        followers: usize,
    ) -> Option<Recording> {
        // Where nothing is kept, a short answer for one request alone goes straight through.
        if self.shared.kept.is_none() && followers == 0 && length <= SHORT {
            return None;
        }
        if let Some(share) = self.shared.room.take(length) {
            return Some(Recording { tape: Tape::in_memory(fields, length, share), writer: None, meta, purges });
        }
        let kept = self.awake()?;
        let writer = self.soon(kept.disk.begin(&kept.key(key), &meta, length)).await??;
        let tape = Tape::on_disk(fields, length, writer.partial());
        Some(Recording { tape, writer: Some(writer), meta, purges })
    }

    /// Takes a body in. When it breaks off, S3 is asked for the rest.
    async fn record(&self, key: &str, recording: Recording, live: Live) {
        let Recording { tape, mut writer, meta, purges } = recording;
        let taken = self.take_in(key, &tape, &mut writer, live).await;
        if let Err(failure) = taken {
            debug!("store {}: an answer broke off: {}", self.s3.config.name, failure.as_str());
            return tape.end(Err(failure));
        }
        if !tape.is_on_disk() {
            // It is whole, and nobody has to wait for the disk.
            tape.end(Ok(()));
        }
        let kept = match timeout(DISK_WRITING, self.keep(key, &tape, writer, &meta, purges)).await {
            Ok(kept) => kept,
            Err(_) => {
                self.disk_is_silent();
                Err(std::io::ErrorKind::TimedOut.into())
            }
        };
        if let Err(error) = &kept {
            debug!("store {}: an object is not kept: {error}", self.s3.config.name);
        }
        if tape.is_on_disk() {
            tape.end(kept.map_err(|_| Failure::HttpResponseIncomplete));
        }
    }

    async fn take_in(
        &self,
        key: &str,
        tape: &Tape,
        writer: &mut Option<Writer>,
        mut live: Live,
    ) -> Result<(), Failure> {
        let (idle, deadline) = (self.s3.config.bounds.body_idle_timeout, Instant::now() + RECORDING);
        let (mut taken, mut resumed) = (0, 0);
        loop {
            if self.shared.kept.is_none() && tape.close_unread() {
                return Err(Failure::ConnectionTerminated);
            }
            match timeout_at(deadline, live.next_piece(idle)).await.unwrap_or(Err(Failure::HttpResponseTimeout)) {
                Ok(Some(piece)) if piece.len() as u64 <= tape.length() - taken => {
                    taken += piece.len() as u64;
                    if let Some(writer) = writer {
                        let written = timeout(idle, writer.write(piece)).await;
                        written.ok().and_then(Result::ok).ok_or(Failure::HttpResponseIncomplete)?;
                    }
                    tape.push(piece);
                }
                Ok(None) if taken == tape.length() => {
                    live.finish().await;
                    return Ok(());
                }
                Ok(_) => return Err(Failure::HttpResponseIncomplete),
                Err(failure) => {
                    resumed += 1;
                    if resumed > RESUMES {
                        return Err(failure);
                    }
                    let rest = self.s3.part(key, tape.fields(), taken..tape.length(), Instant::now() + idle).await;
                    live = rest.ok_or(failure)?;
                }
            }
        }
    }

    /// Puts what is whole into its place on the disk.
    async fn keep(
        &self,
        key: &str,
        tape: &Tape,
        writer: Option<Writer>,
        meta: &Meta,
        purges: u64,
    ) -> std::io::Result<()> {
        let writer = match writer {
            Some(writer) => writer,
            None => {
                let Some(kept) = self.awake() else { return Ok(()) };
                let Some(mut writer) = kept.disk.begin(&kept.key(key), meta, tape.length()).await else {
                    return Ok(());
                };
                for piece in tape.pieces() {
                    writer.write(&piece).await?;
                }
                writer
            }
        };
        // What was asked for before a purge is not kept after it.
        if self.shared.purges.load(Ordering::Acquire) != purges {
            return Err(std::io::Error::other("there was a purge meanwhile"));
        }
        writer.commit().await
    }

    async fn drop_copy(&self, key: &str) {
        let Some(kept) = self.awake() else { return };
        if let Some(Err(error)) = self.soon(kept.disk.remove(&kept.key(key))).await {
            debug!("store {}: an object that is no more cannot be removed: {error}", self.s3.config.name);
        }
    }

    /// Asks S3 on the side whether a stale copy is still good, unless somebody does.
    fn revalidate_aside(&self, key: &str, copy: &HeaderMap) {
        let Some(kept) = &self.shared.kept else { return };
        if self.now() < kept.side_rests.load(Ordering::Relaxed) {
            return;
        }
        let Seat::Lead(flight) = self.shared.flights.join(&key.to_owned()) else { return };
        let (store, key, copy) = (self.clone(), key.to_owned(), copy.clone());
        let deadline = Instant::now() + self.s3.config.bounds.connect_timeout + self.s3.config.bounds.header_timeout;
        tokio::spawn(async move {
            match store.lead(&key, Some(&copy), flight, deadline).await {
                Led::Reader(_) | Led::Fresh(_) | Led::Nothing(Outcome::Absent(_)) => {}
                Led::Nothing(_) => {
                    if let Some(kept) = &store.shared.kept {
                        kept.side_rests.store(store.now() + millis(SIDE_REST), Ordering::Relaxed);
                    }
                }
                Led::Alone(live) => live.discard().await,
            }
        });
    }

    fn now(&self) -> u64 {
        millis(self.shared.began.elapsed())
    }
}

impl Origin for StoreOrigin {
    async fn ask(&self, ask: &Ask<'_>) -> Asked {
        match key::object_key(&self.s3.config.prefix, ask.target) {
            Some(key) => self.answer(&key, ask).await,
            None => Asked::without_answer(Outcome::Absent(404)),
        }
    }

    fn upstream(&self) -> &Upstream {
        self.s3.upstream()
    }
}

/// What is kept of an answer's head. Its age on arrival goes into the moment, and its `Age` out of the fields.
fn meta(fields: &mut HeaderMap, delay: Duration) -> Meta {
    let now = SystemTime::now();
    let made = now.checked_sub(freshness::age_on_arrival(fields, now, delay)).unwrap_or(now);
    fields.remove(header::AGE);
    let pair = |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
    Meta::new(made, fields.iter().map(pair).collect())
}

fn fields_of(meta: &Meta) -> HeaderMap {
    let pairs = meta.fields.iter();
    let valid = pairs.filter_map(|(name, value)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
    });
    let mut fields = HeaderMap::with_capacity(meta.fields.len() + 8);
    for (name, value) in valid {
        fields.append(name, value);
    }
    fields
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How often a request looks again after a flight that ended without a word for it.
const TRIES: usize = 3;
/// How often S3 is asked for the rest of one body that broke off.
const RESUMES: usize = 3;
/// Longest time for one body to come.
const RECORDING: Duration = Duration::from_secs(3600);
/// Bytes of a body that comes so soon that nobody is likely to want it meanwhile.
const SHORT: u64 = 64 * 1024;
/// How long the disk has to look an object up.
const DISK_PATIENCE: Duration = Duration::from_millis(500);
/// How long the disk has to take an object in.
const DISK_WRITING: Duration = Duration::from_secs(30);
/// How long a disk that did not answer is left alone.
const DISK_REST: Duration = Duration::from_secs(10);
/// How long S3 is not asked on the side after it failed.
const SIDE_REST: Duration = Duration::from_secs(1);
