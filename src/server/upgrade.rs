//! From one binary to the next: this process starts its own program anew and hands over to it ([`handover`]). When the new
//! one serves, this one accepts no more, answers what is asked on the connections that it has, and ends. When the new one
//! fails, nothing has changed.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use log::{error, info};

use super::handover::{self, State, VARIABLE, Word};
use super::{Server, Told, notify};
use crate::admin::Refused;
use crate::chain::{Chain, unix_now};

/// Where this program was when it was started: what is there now is the next one.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Notes where this program is, before a package manager puts another one there.
pub fn remember_program() {
    if let Ok(program) = std::env::current_exe() {
        PROGRAM.get_or_init(|| program);
    }
}

impl Server {
    /// Starts the program anew and hands over to it. When it serves, this process is to leave.
    ///
    /// # Errors
    /// When the new process does not come to serve. This one goes on.
    pub(super) async fn upgrade(&mut self) -> Result<String, Refused> {
        let done = self.try_upgrade().await;
        match &done {
            Ok(told) => info!("upgraded: {told}"),
            Err(refused) => error!("not upgraded, and serving goes on as before: {refused}"),
        }
        done
    }

    async fn try_upgrade(&mut self) -> Result<String, Refused> {
        let not_now = |error: anyhow::Error| Refused::NotNow(format!("{error:#}"));
        let program = PROGRAM.get().context("it is not known where this program is").map_err(not_now)?;
        let (here, there) = UnixStream::pair().context("no socket pair").map_err(not_now)?;
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(Stdio::from(OwnedFd::from(there)));
        // The service manager's watchdog follows the main process, whichever that is.
        command.env_remove("WATCHDOG_PID");
        let sockets = self.sockets().context("a socket cannot be handed over").map_err(not_now)?;
        let mut child =
            command.spawn().with_context(|| format!("{} cannot be started", program.display())).map_err(not_now)?;
        // Else it would hold this process's copy of the other end.
        drop(command);
        let pid = child.id();

        let chain = self.running.load_full();
        let heard = tokio::task::spawn_blocking(move || {
            let (state, location) = state(&chain, &sockets);
            let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, _, socket)| socket.as_fd()).collect();
            handover::send(&here, &state, &fds, &location)?;
            handover::hear(&here)
        });
        let heard = heard.await.map_err(|error| Refused::NotNow(error.to_string()))?;
        let why = match heard {
            Ok(Word::Serves) => {
                notify::main_is(pid);
                return Ok(format!("process {pid} serves"));
            }
            Ok(Word::Failed(why)) => why,
            Err(error) => format!("process {pid} did not come to serve: {error}"),
        };
        // It may hang, and must not come to serve later on.
        let _ = child.kill();
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        Err(Refused::NotNow(why))
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

/// What is handed over besides the sockets, and the location map.
fn state(chain: &Chain, sockets: &[(String, SocketAddr, OwnedFd)]) -> (State, Vec<u8>) {
    let snapshot = &chain.snapshot;
    let map = snapshot.location.as_ref();
    let location = map.map(|map| map.save(&snapshot.config.target_names(), unix_now())).unwrap_or_default();
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
