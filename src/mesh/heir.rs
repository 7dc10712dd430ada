//! The process that is to take over: started, spoken with, and killed when it will not do.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::handover::{Channel, ChannelError, FILES_MAX, FromNew, FromOld, Group, Kind, Program};

/// How long a process that has closed its line may take to end.
const END_WITHIN: Duration = Duration::from_secs(2);
const END_POLL: Duration = Duration::from_millis(5);

/// Why an upgrade did not go through.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    #[error("{path} cannot be started: {source}")]
    Start { path: String, source: io::Error },
    #[error("the new process ended before it was {expected}: {status}")]
    Ended { expected: &'static str, status: ExitStatus },
    #[error("the new process was not {expected} within {after:?}")]
    Late { expected: &'static str, after: Duration },
    #[error("the new process cannot take over: {cause}")]
    Refused { cause: String },
    #[error("the new process speaks protocol {theirs} of upgrades and this one {ours}: restart")]
    Protocol { theirs: u32, ours: u32 },
    #[error("the new process was lost before it was {expected}: {source}")]
    Lost { expected: &'static str, source: ChannelError },
    #[error("{0} cannot be passed on: {1}")]
    Sockets(&'static str, io::Error),
    #[error("this process was told to stop")]
    Stopped,
}

/// The new process.
pub(super) struct Heir {
    child: Child,
    pub(super) pid: u32,
    pub(super) version: Option<String>,
    pub(super) channel: Channel,
    /// The groups of sockets that it was offered.
    pub(super) offered: Vec<Group>,
    /// The numbers of those that it goes on with.
    pub(super) taken: Vec<u32>,
}

impl Heir {
    /// Starts it.
    pub(super) fn start(program: &Program) -> Result<Self, UpgradeError> {
        let failed = |source| {
            let path = program.path().display().to_string();
            UpgradeError::Start { path, source }
        };
        let (child, line) = program.start().map_err(failed)?;
        let channel = Channel::new(line).map_err(failed)?;
        let (offered, taken) = (Vec::new(), Vec::new());
        Ok(Self { pid: child.id(), child, version: None, channel, offered, taken })
    }

    /// Says something. That it does not hear is found when it has to answer.
    pub(super) async fn tell(&mut self, message: &FromOld, files: &[BorrowedFd<'_>]) {
        if let Err(error) = self.channel.to.send(message, files).await {
            tracing::debug!(%error, "the new process does not listen");
        }
    }

    /// Offers sockets of one address.
    pub(super) async fn offer(
        &mut self,
        kind: Kind,
        name: Option<&str>,
        bind: SocketAddr,
        sockets: &[impl AsFd],
    ) {
        let id = u32::try_from(self.offered.len()).unwrap_or(u32::MAX);
        let group = Group { id, kind, name: name.map(str::to_owned), bind };
        for chunk in sockets.chunks(FILES_MAX) {
            let files: Vec<BorrowedFd<'_>> = chunk.iter().map(AsFd::as_fd).collect();
            let message = FromOld::Sockets { group: group.clone(), files: files.len() };
            self.tell(&message, &files).await;
        }
        self.offered.push(group);
    }

    /// The names and addresses of the router's listeners that it goes on with.
    pub(super) fn listeners_taken(&self) -> Vec<(String, SocketAddr)> {
        let of_router = self.offered.iter().filter(|group| group.kind == Kind::Router);
        let taken = of_router.filter(|group| self.taken.contains(&group.id));
        taken.map(|group| (group.name.clone().unwrap_or_default(), group.bind)).collect()
    }

    /// Its next word, which says that it is `expected`; its refusal is an error.
    pub(super) async fn hear(
        &mut self,
        expected: &'static str,
        within: Duration,
        stop: &CancellationToken,
    ) -> Result<FromNew, UpgradeError> {
        let heard = tokio::select! {
            heard = tokio::time::timeout(within, self.channel.from.receive()) => heard,
            () = stop.cancelled() => return Err(UpgradeError::Stopped),
        };
        match heard {
            Ok(Ok(FromNew::Failed { cause })) => Err(UpgradeError::Refused { cause }),
            Ok(Ok(word)) => Ok(word),
            Ok(Err(ChannelError::Closed)) => match self.ended().await {
                Some(status) => Err(UpgradeError::Ended { expected, status }),
                None => Err(UpgradeError::Lost { expected, source: ChannelError::Closed }),
            },
            Ok(Err(source)) => Err(UpgradeError::Lost { expected, source }),
            Err(_) => Err(UpgradeError::Late { expected, after: within }),
        }
    }

    /// How it ended, if it does so soon.
    async fn ended(&mut self) -> Option<ExitStatus> {
        let ended = async {
            loop {
                match self.child.try_wait() {
                    Ok(Some(status)) => return Some(status),
                    Ok(None) => tokio::time::sleep(END_POLL).await,
                    Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(END_WITHIN, ended).await.ok().flatten()
    }

    /// Ends it for certain: when this returns, it has neither store nor jobs nor sockets.
    pub(super) async fn kill(mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let waited = tokio::task::spawn_blocking(move || self.child.wait()).await;
        if !matches!(waited, Ok(Ok(_))) {
            tracing::error!(?waited, "the new process may still be there");
        }
    }
}
