//! From one binary to the next: this process starts its own program anew and hands over to it ([`handover`]). When the new
//! one serves, this one accepts no more, answers what is asked on the connections that it has, and ends. When the new one
//! fails, nothing has changed.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use log::{error, info};

use super::handover::{self, State, Word};
use super::successor::Successor;
use super::{Server, Told, notify};
use crate::admin::Refused;
use crate::chain::Chain;

impl Server {
    /// Starts the program anew and hands over to it. When it serves, this process is to leave; else it goes on.
    ///
    /// What this process is `told` meanwhile goes to those `waiting`. A word to stop ends the upgrade.
    ///
    /// # Errors
    /// When the new process does not come to serve.
    pub(super) async fn upgrade(
        &mut self,
        told: &mut impl AsyncFnMut() -> Told,
        waiting: &mut VecDeque<Told>,
    ) -> Result<String, Refused> {
        let stop = async {
            loop {
                let word = told().await;
                waiting.push_back(word);
                if matches!(word, Told::Drain | Told::StopNow) {
                    return;
                }
            }
        };
        let done = self.try_upgrade(stop).await;
        match &done {
            Ok(told) => {
                info!("upgraded: {told}");
                // What this process still has to write must not go to a file that was renamed.
                if waiting.contains(&Told::ReopenLogs) {
                    self.access_log.reopen();
                }
            }
            Err(refused) => error!("not upgraded, and serving goes on as before: {refused}"),
        }
        done
    }

    /// Ends without success when `stop` ends before.
    async fn try_upgrade(&mut self, stop: impl Future<Output = ()>) -> Result<String, Refused> {
        let not_now = |error: anyhow::Error| Refused::NotNow(format!("{error:#}"));
        if std::process::id() == 1 {
            let why = "this is the first process of its container, which ends with it: replace the container";
            return Err(Refused::NotNow(why.to_owned()));
        }
        let program = self.program.clone().context("it is not known where this program is").map_err(not_now)?;
        let sockets = self.sockets().context("a socket cannot be handed over").map_err(not_now)?;
        let chain = self.running.load_full();
        let (here, there) = UnixStream::pair().context("no socket pair").map_err(not_now)?;
        let ours = here.try_clone().context("no socket pair").map_err(not_now)?;
        let mut handed = tokio::task::spawn_blocking(move || hand_over(&program, &here, there, &chain, &sockets));
        let handed = tokio::select! {
            handed = &mut handed => handed,
            () = stop => {
                // Who waits for the new process is woken, and ends it.
                let _ = ours.shutdown(Shutdown::Both);
                handed.await.map(|done| done.context("this process is told to stop"))
            }
        };
        let pid = handed.context("handing over failed").and_then(|done| done).map_err(not_now)?;
        notify::main_is(pid);
        Ok(format!("process {pid} serves"))
    }

    /// The end of a process that has handed over: what is asked on its connections is answered, for as long as requests may
    /// take at a stop.
    pub(super) async fn leave(mut self, mut told: impl AsyncFnMut() -> Told) {
        let patience = self.running.load().snapshot.config.shutdown_timeout;
        self.stopping.send_replace(true);
        self.listeners.leave();
        // The new process checks nodes, saves the location map, and orders certificates.
        self.probes.abort_all();
        self.acme.leave();
        if let Some(admin) = self.admin.take() {
            // Who asked for the upgrade is waiting for the answer.
            let _ = tokio::time::timeout(MOMENT, admin.close()).await;
        }
        tokio::select! {
            () = self.listeners.drained() => {}
            () = tokio::time::sleep(patience) => {
                self.listeners.stop();
                // Those that only waited are gone in no time.
                let _ = tokio::time::timeout(MOMENT, self.listeners.drained()).await;
            }
            () = self.told_to_stop(&mut told) => {}
        }
        info!("left");
        self.flush();
    }

    /// Every listening socket, with the listener's name and its address in the config.
    fn sockets(&self) -> std::io::Result<Vec<(String, SocketAddr, OwnedFd)>> {
        let mut sockets = self.listeners.sockets()?;
        if let Some(admin) = &self.admin
            && let Some(socket) = admin.socket.upgrade()
        {
            sockets.push((String::new(), admin.wanted, socket.as_fd().try_clone_to_owned()?));
        }
        Ok(sockets)
    }
}

/// Starts the program anew and hands all over to it. Gives its number when it serves. Blocks.
fn hand_over(
    program: &Path,
    to: &UnixStream,
    its: UnixStream,
    chain: &Chain,
    sockets: &[(String, SocketAddr, OwnedFd)],
) -> anyhow::Result<u32> {
    let successor =
        Successor::start(program, to, its).with_context(|| format!("{} cannot be started", program.display()))?;
    let (state, location) = state(chain, sockets);
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, _, socket)| socket.as_fd()).collect();
    let heard = handover::send(to, &state, &fds, &location).and_then(|()| handover::hear(to));
    let pid = successor.pid;
    let failed = match heard {
        Ok(Word::Serves) => return Ok(pid),
        Ok(Word::Failed(why)) => anyhow::Error::msg(why),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let patience = humantime::format_duration(handover::PATIENCE);
            anyhow::anyhow!("process {pid} did not come to serve within {patience}")
        }
        Err(error) => anyhow::anyhow!("process {pid} did not come to serve: {error}"),
    };
    // It may hang, and must not come to serve later on.
    successor.kill();
    Err(failed)
}

/// What is handed over besides the sockets, and the location map.
fn state(chain: &Chain, sockets: &[(String, SocketAddr, OwnedFd)]) -> (State, Vec<u8>) {
    let snapshot = &chain.snapshot;
    let map = snapshot.location.as_ref();
    let location = map.map(|map| map.save(&snapshot.config.target_names())).unwrap_or_default();
    let spent = chain.stores.values().map(|store| (store.s3.config.name.clone(), store.s3.spent_today_exactly()));
    let state = State {
        sockets: sockets.iter().map(|(name, address, _)| (name.clone(), *address)).collect(),
        name: snapshot.identity.name().to_owned(),
        key: snapshot.identity.key().to_vec(),
        modes: snapshot.modes_said(),
        spent: spent.collect(),
        location: location.len() as u64,
    };
    (state, location)
}

/// What is enough for what takes no time.
const MOMENT: Duration = Duration::from_secs(1);
