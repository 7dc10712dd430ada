//! The processes that this one has replaced, one line each: they hear every change of the table
//! for as long as they have connections, and say what they serve and have under way. To this
//! node's acknowledgements they are workers like its own.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_discovery::model::Revision;
use portolan_discovery::model::key::DATA;
use portolan_discovery::store::{Watch, WatchEvent};
use tokio::sync::{mpsc, oneshot, watch};

use crate::handover::{Change, Channel, ChannelError, FromNew, FromOld, State};
use crate::live::{OpenedStore, Predecessors};

/// How long the last changes may take to be passed on when the store goes away.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a line may take to be given away: one to a process that is stuck is left behind.
const GIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// The wait before the store is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// All of them.
#[derive(Clone)]
pub(super) struct Succession {
    store: OpenedStore,
    predecessors: Arc<Predecessors>,
    lines: Arc<Mutex<Vec<Line>>>,
    is_stopping: Arc<watch::Sender<bool>>,
}

/// The way to the task of one line.
struct Line {
    pid: u32,
    version: String,
    asks: mpsc::Sender<Ask>,
}

enum Ask {
    /// Pass on everything up to this revision, then give the line away and wait.
    GiveAway(Revision, oneshot::Sender<OwnedFd>),
    /// Nobody wanted it.
    GoOn,
}

/// A line that is given away.
pub(super) struct Given {
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) line: OwnedFd,
}

impl Succession {
    pub(super) fn new(store: OpenedStore) -> Self {
        let (predecessors, lines) = (Arc::default(), Arc::default());
        Self { store, predecessors, lines, is_stopping: Arc::new(watch::Sender::new(false)) }
    }

    /// What is known of them.
    pub(super) fn predecessors(&self) -> &Arc<Predecessors> {
        &self.predecessors
    }

    /// From now on `pid` is waited for.
    pub(super) fn expect(&self, pid: u32, version: &str) {
        self.predecessors.update(pid, |one| one.version = version.to_owned());
    }

    /// Tends the line to `pid`, which knows the table of `known`.
    pub(super) fn tend(&self, pid: u32, version: String, channel: Channel, known: Revision) {
        let (asks, asked) = mpsc::channel(1);
        let line = Line { pid, version, asks };
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let tender = Tender {
            pid,
            channel,
            known,
            store: self.store.clone(),
            predecessors: self.predecessors.clone(),
            is_stopping: self.is_stopping.subscribe(),
        };
        let own = self.clone();
        tokio::spawn(async move {
            let error = tender.run(asked).await;
            tracing::info!(pid, %error, "the process before has ended");
            own.predecessors.remove(pid);
            own.lines.lock().unwrap_or_else(PoisonError::into_inner).retain(|line| line.pid != pid);
        });
    }

    /// All of them are to end soon.
    pub(super) fn tell_stopping(&self) {
        self.is_stopping.send_replace(true);
    }

    /// Gives every line away, with everything up to `last` passed on.
    pub(super) async fn give_away(&self, last: Revision) -> Vec<Given> {
        let lines: Vec<_> = {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().map(|l| (l.pid, l.version.clone(), l.asks.clone())).collect()
        };
        let mut given = Vec::new();
        for (pid, version, asks) in lines {
            let (to, line) = oneshot::channel();
            // A line that breaks meanwhile has nobody at its other end.
            let give = async {
                asks.send(Ask::GiveAway(last, to)).await.ok()?;
                line.await.ok()
            };
            match tokio::time::timeout(GIVE_TIMEOUT, give).await {
                Ok(Some(line)) => given.push(Given { pid, version, line }),
                Ok(None) => {}
                Err(_) => tracing::warn!(pid, "a process that drains does not listen any more"),
            }
        }
        given
    }

    /// Nobody took them: everything goes on here.
    pub(super) async fn go_on(&self) {
        let asks: Vec<_> = {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().map(|line| line.asks.clone()).collect()
        };
        for asks in asks {
            let _ = asks.send(Ask::GoOn).await;
        }
    }
}

/// One line.
struct Tender {
    pid: u32,
    channel: Channel,
    /// Up to here everything was passed on.
    known: Revision,
    store: OpenedStore,
    predecessors: Arc<Predecessors>,
    is_stopping: watch::Receiver<bool>,
}

impl Tender {
    /// Returns when the line is broken, which mostly is the end of the other process.
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) -> ChannelError {
        match self.tend(&mut asked).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn tend(
        &mut self,
        asked: &mut mpsc::Receiver<Ask>,
    ) -> Result<std::convert::Infallible, ChannelError> {
        self.channel.to.send(&FromNew::Main { pid: std::process::id() }, &[]).await?;
        let mut changes: Option<Watch> = None;
        let mut is_over = false;
        let mut stopping = self.is_stopping.clone();
        let mut is_told = false;
        loop {
            let is_following = changes.is_some() || is_over;
            tokio::select! {
                heard = self.channel.from.receive() => if let FromOld::State(state) = heard? {
                    is_over = state.is_over;
                    self.note(state);
                },
                watch = begin(&self.store, self.known), if !is_following => match watch {
                    Ok(watch) => changes = Some(watch),
                    Err(()) => changes = self.tell_all().await?,
                },
                event = next(&mut changes), if changes.is_some() => {
                    if self.pass_on(event, is_over).await? {
                        changes = None;
                    }
                }
                Some(ask) = asked.recv() => {
                    if let Ask::GiveAway(last, to) = ask {
                        self.catch_up(changes.take(), last).await?;
                        self.give_away(to, asked).await?;
                        // The state comes anew over the new line.
                        is_over = false;
                    }
                }
                () = told_to_stop(&mut stopping), if !is_told => {
                    is_told = true;
                    self.channel.to.send(&FromNew::Stopping, &[]).await?;
                }
            }
        }
    }

    fn note(&self, state: State) {
        self.predecessors.update(self.pid, |one| {
            one.acked = state.acked;
            one.connections = state.connections;
            one.draining = state.draining;
            one.is_over = state.is_over;
            one.is_lost = false;
        });
    }

    /// Passes an event on; whether the watch has ended.
    async fn pass_on(&mut self, event: WatchEvent, is_over: bool) -> Result<bool, ChannelError> {
        match event {
            WatchEvent::Batch { revision, events } => {
                if !is_over {
                    let changes = events.iter().map(Change::of).collect::<Result<_, _>>()?;
                    self.channel.to.send(&FromNew::Changes { revision, changes }, &[]).await?;
                }
                self.known = revision;
            }
            WatchEvent::Progress(revision) => self.known = self.known.max(revision),
            WatchEvent::Compacted { .. } | WatchEvent::Lost(_) => return Ok(true),
        }
        Ok(false)
    }

    /// Passes on everything there is: what came between is forgotten. The watch that follows.
    async fn tell_all(&mut self) -> Result<Option<Watch>, ChannelError> {
        tokio::time::sleep(RETRY).await;
        let Ok(store) = self.store.now() else { return Ok(None) };
        let Ok((kvs, revision)) = store.snapshot(DATA).await else { return Ok(None) };
        let records = kvs.iter().map(Change::of_record).collect::<Result<_, _>>()?;
        self.channel.to.send(&FromNew::All { revision, records }, &[]).await?;
        self.known = revision;
        Ok(store.watch(DATA, revision).await.ok())
    }

    async fn catch_up(
        &mut self,
        changes: Option<Watch>,
        last: Revision,
    ) -> Result<(), ChannelError> {
        let Some(mut changes) = changes else { return Ok(()) };
        let caught_up = async {
            while self.known < last {
                let event = changes.next().await;
                if self.pass_on(event, false).await? {
                    break;
                }
            }
            Ok(())
        };
        tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await.unwrap_or(Ok(()))
    }

    /// Makes a new line, so that nothing half said is on it, and waits for what becomes of it.
    async fn give_away(
        &mut self,
        to: oneshot::Sender<OwnedFd>,
        asked: &mut mpsc::Receiver<Ask>,
    ) -> Result<(), ChannelError> {
        let (ours, theirs) = UnixStream::pair()?;
        self.channel.to.send(&FromNew::Line, &[theirs.as_fd()]).await?;
        let copy = ours.try_clone()?;
        self.channel = Channel::new(ours)?;
        let _ = to.send(copy.into());
        match asked.recv().await {
            Some(_) => {
                // Whoever had the line for a while may have read of it and said anything.
                self.known = Revision::default();
                Ok(())
            }
            None => Err(ChannelError::Closed),
        }
    }
}

async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stopping| *stopping).await.is_err() {
        std::future::pending().await
    }
}

/// The changes after `known`, once there is a store.
async fn begin(store: &OpenedStore, known: Revision) -> Result<Watch, ()> {
    let store = store.ready().await;
    match known {
        Revision(0) => Err(()),
        known => store.watch(DATA, known).await.map_err(|_| ()),
    }
}

async fn next(changes: &mut Option<Watch>) -> WatchEvent {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}
