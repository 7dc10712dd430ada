//! A process that was replaced: it serves what it has begun, on tables that its successor sends,
//! and then ends; or stays, when whoever started it waits for this very process.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{Event, Kv, Revision};
use rustix::process::{Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::heir::Heir;
use super::upgrade::step;
use super::{Ended, Orders, Plane, Running};
use crate::certificates::judge;
use crate::handover::{self, Change, Channel, ChannelError, FromNew, FromOld, Main, State};
use crate::live::{UpgradeRequest, UpgradeStage, UpgradeStep};

/// How long connections may go on in a process that was replaced, unless the configuration says
/// otherwise: nobody waits for them, but memory and files are not for ever.
const UPGRADE_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);
/// How often the successor is told how far this process is.
const REPORT_EVERY: Duration = Duration::from_millis(20);
/// How often who asked for the upgrade is told.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the leading process has ended, if no signal says so.
const GUARD_EVERY: Duration = Duration::from_secs(1);

impl Running {
    /// Leaves everything to `heir` but what is under way. Returns when that has ended and nobody
    /// waits for this process any more.
    pub(super) async fn outlive(
        self,
        heir: Heir,
        request: UpgradeRequest,
        orders: &Orders,
    ) -> Ended {
        let is_guard = self.is_first() && !handover::is_notified();
        if is_guard {
            orders.main.set(heir.pid);
        }
        let Self { plane, service, .. } = self;
        service.cancel.cancel();
        drop(plane.admin().take());
        let done = plane.done(&heir);
        tracing::info!(new = heir.pid, connections = done.connections, "replaced; draining");
        request.say(done.clone());
        let (hurry, lost) = (CancellationToken::new(), CancellationToken::new());
        let (over, is_over) = watch::channel(false);
        let taken = heir.listeners_taken();
        let line = Line {
            plane: plane.clone(),
            channel: heir.channel,
            main: orders.main.clone(),
            hurry: hurry.clone(),
            lost: lost.clone(),
            is_over,
        };
        let line = tokio::spawn(line.run());
        let stop = tokio::spawn({
            let (stop, hurry) = (orders.stop.clone(), hurry.clone());
            async move {
                stop.cancelled_owned().await;
                hurry.cancel()
            }
        });
        let drain = async {
            tokio::select! {
                () = plane.drain(&taken, &hurry) => {}
                () = plane.say_connections(&request, &done) => {}
            }
            over.send_replace(true);
            request.say(UpgradeStep {
                stage: UpgradeStage::Drained,
                message: format!("process {} has no connection any more", done.old_pid),
                connections: 0,
                ..done
            });
            drop(request);
            service.end().await;
        };
        let guard = async {
            let code = if is_guard { guard(&orders.main, &lost).await } else { 0 };
            if is_guard {
                hurry.cancel();
            }
            code
        };
        let ((), code) = tokio::join!(drain, guard);
        line.abort();
        stop.abort();
        Ended { farewell: String::new(), code }
    }
}

impl Plane {
    fn done(&self, heir: &Heir) -> UpgradeStep {
        let connections = self.router.connections();
        let message = format!(
            "version {} serves as process {}; {connections} connections end in process {}",
            heir.version.as_deref().unwrap_or("?"),
            heir.pid,
            std::process::id()
        );
        UpgradeStep { connections, ..step(UpgradeStage::Done, Some(heir), message) }
    }

    /// Serves what has begun until it ends; `hurry` leaves it the time of a stop.
    async fn drain(&self, taken: &[(String, SocketAddr)], hurry: &CancellationToken) {
        let longest = self.config.router.upgrade_drain_timeout.unwrap_or(UPGRADE_DRAIN);
        let is_taken =
            |name: &str, bind| taken.iter().any(|(known, addr)| known == name && *addr == bind);
        let dns = async {
            if let Some(dns) = &self.dns {
                tokio::select! {
                    () = dns.hand_over() => {}
                    () = hurry.cancelled() => {}
                }
            }
        };
        let router = async {
            tokio::select! {
                cut = self.router.hand_over(is_taken, longest) => cut,
                () = hurry.cancelled() => self.router.drain(self.drain_timeout()).await,
            }
        };
        let (cut, ()) = tokio::join!(router, dns);
        tracing::info!(cut, "nothing is under way here any more");
    }

    /// Tells who asked for the upgrade what is still open, for as long as that one listens.
    async fn say_connections(&self, request: &UpgradeRequest, done: &UpgradeStep) {
        while !request.is_unheard() {
            tokio::time::sleep(SAY_EVERY).await;
            let connections = self.router.connections();
            let message = format!("{connections} connections are open in process {}", done.old_pid);
            let stage = UpgradeStage::Draining;
            request.say(UpgradeStep { stage, message, connections, ..done.clone() });
        }
        std::future::pending().await
    }
}

/// The line to whichever process leads.
struct Line {
    plane: Arc<Plane>,
    channel: Channel,
    main: Arc<Main>,
    hurry: CancellationToken,
    /// Nobody is at the other end.
    lost: CancellationToken,
    is_over: watch::Receiver<bool>,
}

impl Line {
    /// Hears and tells until nobody is at the other end.
    async fn run(mut self) {
        let error = match self.talk().await {
            Ok(()) => return,
            Err(error) => error,
        };
        tracing::info!(%error, "no process leads any more; ending");
        self.lost.cancel();
        self.hurry.cancel();
    }

    async fn talk(&mut self) -> Result<(), ChannelError> {
        let mut report = tokio::time::interval(REPORT_EVERY);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = None;
        loop {
            tokio::select! {
                word = self.channel.from.receive() => match word? {
                    FromNew::All { revision, records } => {
                        self.publish(revision, records, true);
                    }
                    FromNew::Changes { revision, changes } => {
                        self.publish(revision, changes, false);
                    }
                    FromNew::Main { pid } if self.main.pid().is_some() => self.main.set(pid),
                    FromNew::Line => {
                        let line = self.channel.from.files(1)?.remove(0);
                        self.channel = Channel::new(UnixStream::from(line))?;
                        said = None;
                    }
                    FromNew::Stopping => self.hurry.cancel(),
                    _ => {}
                },
                _ = report.tick() => {
                    let state = self.state();
                    if said.as_ref() != Some(&state) {
                        self.channel.to.send(&FromOld::State(state.clone()), &[]).await?;
                        said = Some(state);
                    }
                }
            }
        }
    }

    fn publish(&self, revision: Revision, changes: Vec<Change>, is_all: bool) {
        let live = &self.plane.live;
        let events: Vec<_> = changes.into_iter().map(|change| change.event(revision)).collect();
        let (snapshot, rejected) = match is_all {
            true => live.snapshot().caught_up_judged(records(events), revision, &judge),
            false => live.snapshot().apply_judged(&events, revision, &judge),
        };
        for record in rejected {
            tracing::warn!(%record, "the last good one serves on");
        }
        self.plane.publisher.publish(&snapshot);
        live.set_snapshot(Arc::new(snapshot));
    }

    fn state(&self) -> State {
        let router = &self.plane.router;
        let mut draining = crate::live::Counts::new();
        for (service, id, count) in router.table().draining() {
            draining.entry(service.clone()).or_default().insert(id.clone(), count);
        }
        State {
            acked: router.acked(),
            connections: router.connections(),
            draining,
            is_over: *self.is_over.borrow(),
        }
    }
}

fn records(events: Vec<Event>) -> Vec<Kv> {
    let record = |event| match event {
        Event::Put(kv) => Some(kv),
        Event::Delete { .. } => None,
    };
    events.into_iter().filter_map(record).collect()
}

/// Waits for the end of the process that leads, and says how it ended. Whoever started this
/// process knows no other: it passes signals on, and is the parent of all whose parents end.
async fn guard(main: &Main, lost: &CancellationToken) -> u8 {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "the end of a later process may not be noticed");
    }
    let (mut child, mut hangup) = match (signal(SignalKind::child()), signal(SignalKind::hangup()))
    {
        (Ok(child), Ok(hangup)) => (child, hangup),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be watched");
            return 1;
        }
    };
    let mut ended = None;
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if main.pid() == Some(pid) {
                ended = Some((pid, code(status)));
            }
        }
        // One that was replaced may end before the line tells by whom: as long as somebody is at
        // the other end, somebody leads.
        match ended {
            Some((pid, code)) if main.pid() == Some(pid) && lost.is_cancelled() => return code,
            _ => {}
        }
        tokio::select! {
            _ = child.recv() => {}
            () = lost.cancelled(), if !lost.is_cancelled() => {}
            _ = hangup.recv() => { main.forward(Signal::HUP); }
            () = tokio::time::sleep(GUARD_EVERY) => {}
        }
    }
}

/// As a shell says it.
fn code(status: WaitStatus) -> u8 {
    let signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
