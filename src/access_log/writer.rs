//! The thread that writes: it takes what has gathered, and puts it where the log goes.

use std::fs::File;
use std::io::{self, Stdout, Write};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use prometheus::IntCounter;

use crate::config::{Destination, Output};
use crate::messages::append;
use crate::syslog::{Severity, Syslog, Wait, is_too_long};

/// What is on its way to the writer: one text and not a queue of lines, so that neither side allocates for the other.
#[derive(Default)]
pub(super) struct Gathered {
    state: Mutex<State>,
    /// Something came where nothing was, or is wanted at once.
    came: Condvar,
    /// `State::written` has changed.
    wrote: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Until here, counted in bytes since the start, somebody waits for lines to be written.
    wanted: u64,
    entered: u64,
    written: u64,
    /// The file is to be opened anew once `lines` are written.
    reopen: bool,
    closed: bool,
}

/// What follows once the lines are written that were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Go,
    Reopen,
    End,
}

/// Bytes that may wait for the disk; lines beyond that are dropped and counted rather than waited for.
const WAITING: usize = 4 << 20;

/// How long the writer gathers lines, so that it is not woken for each one.
const GATHERING: Duration = Duration::from_millis(10);

/// How long it waits for a syslog daemon that does not keep up, before it drops what it has taken.
const PATIENCE: Duration = Duration::from_secs(1);

impl Gathered {
    /// False when there is no room.
    pub(super) fn enter(&self, line: &[u8]) -> bool {
        let mut state = self.state();
        if state.lines.len() + line.len() > WAITING {
            return false;
        }
        let first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        state.entered += line.len() as u64;
        drop(state);
        if first {
            self.came.notify_one();
        }
        true
    }

    pub(super) fn flush(&self, patience: Duration) {
        let mut state = self.state();
        let until = state.entered;
        state.wanted = until;
        self.came.notify_one();
        // A disk that takes longer must not hold up the end of the process.
        let _ = self.wrote.wait_timeout_while(state, patience, |state| state.written < until);
    }

    pub(super) fn reopen(&self) {
        self.state().reopen = true;
        self.came.notify_one();
    }

    /// The writer ends when it has written what is there.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.came.notify_one();
    }

    /// The writer's whole life.
    pub(super) fn write_to(&self, mut sink: Sink, dropped: &IntCounter) {
        let mut lines = Vec::new();
        let mut broken = false;
        loop {
            let then = self.take(&mut lines);
            // What could not be written is lost: lines told twice would be worse.
            if let Err(Lost { lines, why }) = sink.write(&lines) {
                dropped.inc_by(lines);
                if !std::mem::replace(&mut broken, true) {
                    log::error!("the access log cannot be written: {why}");
                }
            }
            self.state().written += lines.len() as u64;
            self.wrote.notify_all();
            lines.clear();
            match then {
                Then::Go => {}
                Then::Reopen => {
                    broken = false;
                    sink.reopen();
                }
                Then::End => return,
            }
        }
    }

    /// Waits for lines, gathers more for a moment, and gives all in exchange for the empty `lines`.
    fn take(&self, lines: &mut Vec<u8>) -> Then {
        let idle = |state: &mut State| state.lines.is_empty() && !state.reopen && !state.closed;
        let state = self.came.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner);
        let gather = |state: &mut State| state.wanted <= state.written && !state.reopen && !state.closed;
        let gathering = self.came.wait_timeout_while(state, GATHERING, gather);
        let (mut state, _) = gathering.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.lines, lines);
        if state.closed {
            Then::End
        } else if std::mem::take(&mut state.reopen) {
            Then::Reopen
        } else {
            Then::Go
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where lines go, open.
pub(super) enum Sink {
    Stdout(Stdout),
    File(File, PathBuf),
    Syslog(Syslog),
}

/// How many lines were not written, or not surely, and why.
#[derive(Debug)]
struct Lost {
    lines: u64,
    why: io::Error,
}

impl Sink {
    pub(super) fn open(output: &Output) -> anyhow::Result<Self> {
        let failed = || format!("the access log `{}` cannot be opened", output.to);
        Ok(match &output.to {
            Destination::Standard => Sink::Stdout(io::stdout()),
            Destination::File(path) => Sink::File(append(path).with_context(failed)?, path.clone()),
            Destination::Syslog(daemon) => {
                let syslog = Syslog::open(daemon, output.facility, "access", Wait::AtMost(PATIENCE));
                Sink::Syslog(syslog.with_context(failed)?)
            }
        })
    }

    fn reopen(&mut self) {
        let Sink::File(file, path) = self else { return };
        match append(path) {
            Ok(new) => {
                *file = new;
                log::info!("the access log `{}` is opened anew", path.display());
            }
            Err(error) => log::error!(
                "the access log `{}` cannot be opened anew, and goes on where it was: {error}",
                path.display()
            ),
        }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        match self {
            Sink::Stdout(out) => whole(lines, out.write_all(lines).and_then(|()| out.flush())),
            Sink::File(file, _) => whole(lines, file.write_all(lines)),
            Sink::Syslog(syslog) => datagrams(lines, syslog),
        }
    }
}

fn whole(lines: &[u8], written: io::Result<()>) -> Result<(), Lost> {
    written.map_err(|why| Lost { lines: count(lines), why })
}

/// A datagram for each line. The first that is not taken ends it, unless it is that line's own fault.
fn datagrams(mut lines: &[u8], syslog: &mut Syslog) -> Result<(), Lost> {
    let now = SystemTime::now();
    let mut lost: Option<Lost> = None;
    while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
        if let Err(why) = syslog.send(Severity::Info, now, &lines[..end]) {
            let one = is_too_long(&why);
            let before = lost.map_or(0, |lost| lost.lines);
            lost = Some(Lost { lines: before + if one { 1 } else { count(lines) }, why });
            if !one {
                break;
            }
        }
        lines = &lines[end + 1..];
    }
    lost.map_or(Ok(()), Err)
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
