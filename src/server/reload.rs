//! From one config to the next, all or nothing: whatever can fail is done before anything changes.
//!
//! Listeners, pools, nodes, routes, certificates, stores with their credentials, limits and the admin address change while
//! the process runs. Sockets, connections to nodes, health, modes, stickiness, the location map and stores' disks are
//! shared with the config before, as far as they mean the same. What cannot change is kept as it was, and told.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use log::{error, info, warn};

use super::{Server, chain, listen, notify, traces};
use crate::access_log::AccessLog;
use crate::admin::Refused;
use crate::config::Config;
use crate::history::Kind;
use crate::probe;

impl Server {
    /// Reads the config file again and serves by it. Gives what was done, in words.
    ///
    /// # Errors
    /// When the file has mistakes, or something that it names cannot be had. What runs is as it was.
    pub(super) async fn reload(&mut self) -> Result<String, Refused> {
        notify::reloading();
        let done = self.try_reload().await;
        match &done {
            Ok(told) => {
                info!("reloaded: {told}");
                self.loaded();
                self.reloads.note(SystemTime::now(), Ok(told.clone()));
                self.metrics.history.note_here(SystemTime::now(), Kind::Reloaded, told);
            }
            Err(refused) => {
                error!("not reloaded, and serving goes on as before: {refused}");
                self.metrics.config_reloads.with_label_values(&["failure"]).inc();
                self.reloads.note(SystemTime::now(), Err(refused.to_string()));
                self.metrics.history.note_here(SystemTime::now(), Kind::NotReloaded, &refused.to_string());
            }
        }
        notify::ready();
        done
    }

    /// Counts a config that came into force.
    pub(super) fn loaded(&self) {
        self.metrics.config_reloads.with_label_values(&["success"]).inc();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.config_loaded.set(now.as_secs_f64());
    }

    async fn try_reload(&mut self) -> Result<String, Refused> {
        let Some(file) = self.file.clone() else {
            return Err(Refused::NotNow("this config did not come from a file".to_owned()));
        };
        let from = file.display().to_string();
        let loaded = tokio::task::spawn_blocking(move || Config::load(&file)).await;
        let mut config = loaded.map_err(|error| Refused::NotNow(error.to_string()))?.map_err(Refused::Mistakes)?;
        let before = self.running.load_full();
        let was = &before.snapshot.config;
        let kept = keep_what_must_stay(was, &mut config);
        let in_the_way = self.in_the_way(&config);
        let not_now = |error: anyhow::Error| {
            let is_taken = |cause: &(dyn std::error::Error + 'static)| {
                cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::AddrInUse)
            };
            let own = in_the_way.filter(|_| error.chain().any(is_taken));
            let own = own.map(|own| format!("; {own} is this hopfall's own, so that change needs a restart"));
            Refused::NotNow(format!("{error:#}{}", own.unwrap_or_default()))
        };

        let prepared = self.listeners.prepare(&config, &mut Vec::new()).map_err(not_now)?;
        let wanted = config.admin.as_ref().map(|admin| admin.address);
        let admin = match wanted.filter(|wanted| Some(*wanted) != self.admin.as_ref().map(|own| own.wanted)) {
            Some(address) => {
                let socket = listen("", address, &mut Vec::new()).context("the admin listener").map_err(not_now)?;
                Some(self.serve_admin(address, socket).map_err(not_now)?)
            }
            None => None,
        };
        let access_log = match config.log.access == was.log.access {
            true => self.access_log.clone(),
            false => Arc::new(AccessLog::open(&config.log, self.metrics.log_dropped.clone()).map_err(not_now)?),
        };
        let traces = traces(&config, &self.metrics, Some(&before)).map_err(not_now)?;
        let level = (config.log.level != was.log.level).then(|| config.log.level.filter());

        let patience = was.shutdown_timeout;
        let metrics = self.metrics.clone();
        // Carrying a large location map over takes its time.
        let made = tokio::task::spawn_blocking({
            let before = before.clone();
            move || chain(config, before.snapshot.identity.clone(), &metrics, Some(&before), &[], traces)
        });
        let made = Arc::new(made.await.map_err(|error| Refused::NotNow(error.to_string()))?);
        // From here on nothing fails.
        self.acme.follow(&made.snapshot.config);
        self.listeners.serve(prepared, &made, &access_log, patience);
        made.snapshot.follow(&before.snapshot, &self.metrics);
        self.probes = probe::start(&made);
        if admin.is_some() || made.snapshot.config.admin.is_none() {
            self.admin = admin;
        }
        self.access_log = access_log;
        if let Some(level) = level {
            log::set_max_level(level);
        }
        let generation = made.snapshot.generation;
        self.running.store(made);
        let mut told = format!("config {generation} is in force, from {from}");
        for key in kept {
            warn!("`{key}` has changed and waits for an upgrade or a restart");
            told.push_str(&format!("; `{key}` waits for an upgrade or a restart"));
        }
        Ok(told)
    }

    /// An address that this process has, if `config` names another one that the kernel does not give out beside it: all
    /// addresses of a port, or one where all are taken.
    fn in_the_way(&self, config: &Config) -> Option<SocketAddr> {
        let admin = self.admin.as_ref().map(|admin| admin.address);
        let own: Vec<SocketAddr> = self.listeners.addresses().into_iter().chain(admin).collect();
        let wanted = config.listeners.iter().map(|listener| listener.address);
        let mut wanted = wanted.chain(config.admin.as_ref().map(|admin| admin.address));
        let clash = |one: SocketAddr, other: SocketAddr| {
            one.port() == other.port() && one != other && (one.ip().is_unspecified() || other.ip().is_unspecified())
        };
        wanted.find_map(|wanted| own.iter().copied().find(|own| clash(*own, wanted)))
    }
}

/// Puts back what cannot change while the process runs, and names it.
fn keep_what_must_stay(was: &Config, now: &mut Config) -> Vec<String> {
    let mut kept = Vec::new();
    if now.threads != was.threads {
        now.threads = was.threads;
        kept.push("threads".to_owned());
    }
    if now.identity != was.identity {
        now.identity = was.identity.clone();
        kept.push("identity".to_owned());
    }
    if now.log.messages != was.log.messages {
        now.log.messages = was.log.messages.clone();
        kept.push("log.path".to_owned());
    }
    if now.log.clients != was.log.clients {
        now.log.clients = was.log.clients;
        kept.push("log.client".to_owned());
    }
    let disks_before = || was.stores.iter().filter_map(|store| store.disk.as_ref());
    for store in &mut now.stores {
        let Some(disk) = &mut store.disk else { continue };
        let same_folder = disks_before().find(|before| before.settings.path == disk.settings.path);
        if let Some(before) = same_folder.filter(|before| before.settings != disk.settings) {
            disk.settings = before.settings.clone();
            kept.push(format!("stores.{}.disk", store.name));
        }
    }
    kept
}
