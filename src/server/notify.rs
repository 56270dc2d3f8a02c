//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, which process is the main one, and that it
//! is alive. Without a service manager nothing is told.

use std::time::Duration;

use log::debug;
use sd_notify::NotifyState;
use tokio::task::JoinSet;

/// Requests are served.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The config is read again; `ready` follows, whatever comes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!("the service manager is not told of the reload: {error}"),
    }
}

/// Requests under way end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process has taken over. It is heard from now on, and has the watchdog's whole time for its first sign of life.
pub fn main_is(pid: u32) {
    tell(&[NotifyState::MainPid(pid), NotifyState::Watchdog]);
}

/// Says each half of the time that the service manager allows that this process is alive: by a task, so that a runtime which
/// is stuck says nothing.
pub fn keep_alive(tasks: &mut JoinSet<()>) {
    let Some(allowed) = sd_notify::watchdog_enabled().filter(|allowed| !allowed.is_zero()) else { return };
    tasks.spawn(async move {
        let half = (allowed / 2).max(Duration::from_millis(1));
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + half, half);
        loop {
            beat.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    });
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!("the service manager is not told: {error}");
    }
}
