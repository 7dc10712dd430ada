//! The side that ends: it starts the next process, gives it the sockets, and, when that one has
//! found nothing wrong, the store and the jobs. Whatever goes wrong before the other one serves,
//! this one goes on as if nothing had been.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portolan_discovery::store::embedded::FORMAT;
use tokio_util::sync::CancellationToken;

use super::bind::bind_agent;
use super::control::Control;
use super::heir::{Heir, UpgradeError};
use super::{Orders, Plane, Running};
use crate::handover::{self, FromNew, FromOld, Kind, PROTOCOL};
use crate::live::{UpgradeRequest, UpgradeStage, UpgradeStep};

/// What parts are told that ask for the store while it is passed on.
const CLOSED: &str = "the store is passed on to a new process: try again in a moment";
/// The wait before the jobs are asked for again after an upgrade that did not go through.
const RESUME_RETRY: Duration = Duration::from_millis(100);

/// A step of an upgrade by `heir`, in words.
pub(super) fn step(stage: UpgradeStage, heir: Option<&Heir>, message: String) -> UpgradeStep {
    UpgradeStep {
        stage,
        message,
        old_pid: std::process::id(),
        old_version: env!("CARGO_PKG_VERSION").to_owned(),
        new_pid: heir.map(|heir| heir.pid),
        new_version: heir.and_then(|heir| heir.version.clone()),
        connections: 0,
    }
}

impl Running {
    /// Whether nobody else waits for the end of this process than who started it.
    pub(super) fn is_first(&self) -> bool {
        self.origin.as_ref().is_none_or(|origin| !origin.guarded)
    }

    /// Lets another process take over. When it does, it is returned and leads; this one has
    /// nothing more but its connections.
    pub(super) async fn upgrade(
        &mut self,
        request: &UpgradeRequest,
        orders: &Orders,
    ) -> Option<Heir> {
        let reload = format!("RELOADING=1\nMONOTONIC_USEC={}", handover::monotonic_us());
        handover::notify(&format!("{reload}\nSTATUS=upgrading"));
        tracing::info!(program = %orders.program.path().display(), "upgrading");
        let mut heir = match Heir::start(&orders.program) {
            Ok(heir) => heir,
            Err(error) => {
                self.plane.failed(request, None, &error);
                return None;
            }
        };
        let message =
            format!("started {} as process {}", orders.program.path().display(), heir.pid);
        request.say(step(UpgradeStage::Started, Some(&heir), message));
        let result = self.hand_over(&mut heir, request, &orders.stop).await;
        let Err(error) = result else { return Some(heir) };
        let failed = step(UpgradeStage::Failed, Some(&heir), String::new());
        heir.kill().await;
        if self.plane.is_closing.load(Ordering::Acquire) {
            self.resume().await;
        }
        self.plane.failed(request, Some(failed), &error);
        None
    }

    async fn hand_over(
        &mut self,
        heir: &mut Heir,
        request: &UpgradeRequest,
        stop: &CancellationToken,
    ) -> Result<(), UpgradeError> {
        let guarded = !handover::is_notified() || !self.is_first();
        self.plane.prepare(heir, request, guarded, stop).await?;
        let Some(control) = self.control.take() else { return Err(UpgradeError::Stopped) };
        let revision = control.quiesce(&self.plane).await;
        // The store is still open for those who pass the last changes on.
        for given in self.plane.succession.give_away(revision).await {
            let line = FromOld::Line { pid: given.pid, version: given.version };
            heir.tell(&line, &[given.line.as_fd()]).await;
        }
        self.plane.opener.close(CLOSED).await;
        heir.tell(&FromOld::Released { revision }, &[]).await;
        let message = format!("store and jobs are released at revision {revision}");
        request.say(step(UpgradeStage::Released, Some(heir), message));
        loop {
            if let FromNew::Ready { revision: ready } =
                heir.hear("ready", request.timeout, stop).await?
            {
                tracing::info!(pid = heir.pid, revision = %ready, "the new process serves");
                return self.commit(heir).await;
            }
        }
    }

    /// The last word: from here on the other process leads.
    async fn commit(&self, heir: &mut Heir) -> Result<(), UpgradeError> {
        // The service manager has to know whom to believe before the other one speaks.
        let announces = self.is_first() && handover::is_notified();
        let announce = |pid: u32| {
            if announces {
                handover::notify(&format!("MAINPID={pid}"));
            }
        };
        announce(heir.pid);
        let said = heir.channel.to.send(&FromOld::Commit, &[]).await;
        said.map_err(|source| {
            announce(std::process::id());
            UpgradeError::Lost { expected: "ready", source }
        })
    }

    /// Takes everything back and goes on.
    async fn resume(&mut self) {
        let plane = &self.plane;
        let agent = loop {
            match bind_agent(&plane.config, &plane.store, &plane.live, &plane.agent_metrics) {
                Ok(agent) => break agent,
                Err(error) => {
                    tracing::error!(%error, "the jobs cannot be supervised yet");
                    tokio::time::sleep(RESUME_RETRY).await;
                }
            }
        };
        plane.is_closing.store(false, Ordering::Release);
        self.control = Some(Control::start(plane, agent));
        plane.succession.go_on().await;
    }
}

impl Plane {
    /// Everything up to the word that nothing is wrong. Nothing of this process has changed then.
    async fn prepare(
        &self,
        heir: &mut Heir,
        request: &UpgradeRequest,
        guarded: bool,
        stop: &CancellationToken,
    ) -> Result<(), UpgradeError> {
        match heir.hear("started", request.timeout, stop).await? {
            FromNew::Hello { protocol: PROTOCOL, version, .. } => heir.version = Some(version),
            FromNew::Hello { protocol, .. } => {
                // Its own word is clearer, if it has one.
                heir.hear("started", request.timeout, stop).await?;
                return Err(UpgradeError::Protocol { theirs: protocol, ours: PROTOCOL });
            }
            _ => return Err(UpgradeError::Protocol { theirs: 0, ours: PROTOCOL }),
        }
        let welcome = FromOld::Welcome {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            guarded,
            store: self.config.store_path.clone(),
            data_dir: self.config.node.data_dir.clone(),
            store_format: FORMAT,
        };
        heir.tell(&welcome, &[]).await;
        self.offer(heir).await?;
        heir.tell(&FromOld::Offered, &[]).await;
        let taken = loop {
            if let FromNew::Prepared { taken } =
                heir.hear("prepared", request.timeout, stop).await?
            {
                break taken;
            }
        };
        let message = format!(
            "version {} has taken {} of {} addresses and found nothing wrong",
            heir.version.as_deref().unwrap_or("?"),
            taken.len(),
            heir.offered.len()
        );
        heir.taken = taken;
        request.say(step(UpgradeStage::Prepared, Some(heir), message));
        Ok(())
    }

    /// Offers every socket that listens.
    async fn offer(&self, heir: &mut Heir) -> Result<(), UpgradeError> {
        let failed = |whose| move |error| UpgradeError::Sockets(whose, error);
        let listeners = self.router.sockets().map_err(failed("listeners"))?;
        let virtuals = self.router.virtual_sockets().map_err(failed("virtual addresses"))?;
        for listener in listeners.into_iter().chain(virtuals) {
            let (name, bind) = (listener.name.as_str(), listener.bind);
            heir.offer(Kind::Router, Some(name), bind, &listener.sockets).await;
        }
        if let Some(dns) = &self.dns {
            for sockets in dns.sockets().map_err(failed("the resolver"))? {
                heir.offer(Kind::DnsUdp, None, sockets.bind, &sockets.udp).await;
                heir.offer(Kind::DnsTcp, None, sockets.bind, &[sockets.tcp]).await;
            }
        }
        let listener = self.admin().clone();
        if let Some(listener) = listener {
            heir.offer(Kind::Admin, None, self.config.admin.bind, &[listener.as_fd()]).await;
        }
        Ok(())
    }

    fn failed(&self, request: &UpgradeRequest, failed: Option<UpgradeStep>, error: &UpgradeError) {
        self.upgrade_failures.inc();
        tracing::error!(%error, "the upgrade did not go through; this process serves on");
        let text = error.to_string().replace('\n', " ");
        handover::notify(&format!("READY=1\nSTATUS=serving; an upgrade failed: {text}"));
        let mut failed = failed.unwrap_or_else(|| step(UpgradeStage::Failed, None, String::new()));
        failed.message = error.to_string();
        failed.connections = self.router.connections();
        request.say(failed);
    }
}
