//! The side that begins: it takes the sockets, finds out whether anything is wrong while the
//! other process still serves, then takes store and jobs and serves.
//!
//! When the other process ends on the way, this one goes on alone: all that it has not been given
//! is free then.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use portolan_discovery::model::Revision;
use portolan_discovery::store::embedded::{FORMAT, OpenError};

use super::bind::{Half, StartError};
use super::succession::Succession;
use super::{Mesh, Running};
use crate::config::Config;
use crate::handover::{self, Channel, ChannelError, FromNew, FromOld, Offer, PROTOCOL};

/// How long store and jobs may still be held by a process that has just let go of them, or that
/// has just died.
const LOCKED_MAX: Duration = Duration::from_secs(5);

/// The process that this one took over from.
pub(super) struct Origin {
    pid: u32,
    version: String,
    /// None when it has ended on the way.
    channel: Option<Channel>,
    pub(super) guarded: bool,
    elders: Vec<(u32, String, OwnedFd)>,
    /// The revision that all of them serve.
    revision: Revision,
}

impl Mesh {
    /// Takes over from the process at the other end of `line`.
    ///
    /// # Errors
    /// When something is wrong that was not wrong for the other one; it has been told, and goes
    /// on.
    pub async fn take_over(
        config: Config,
        new_store: bool,
        line: UnixStream,
    ) -> Result<Self, StartError> {
        let lost = |error: ChannelError| StartError::TakeOver(error.to_string());
        let mut channel = Channel::new(line).map_err(|error| lost(error.into()))?;
        match Self::try_to(config, new_store, &mut channel).await {
            Ok((mut mesh, origin)) => {
                if let Some(mut origin) = origin {
                    origin.channel = Some(channel);
                    mesh.origin = Some(origin);
                }
                Ok(mesh)
            }
            Err(error) => {
                let failed = FromNew::Failed { cause: error.to_string() };
                let _ = channel.to.send(&failed, &[]).await;
                Err(error)
            }
        }
    }

    async fn try_to(
        config: Config,
        new_store: bool,
        channel: &mut Channel,
    ) -> Result<(Self, Option<Origin>), StartError> {
        let mut offer = Offer::default();
        let Some(mut origin) = greet(channel, &config, &mut offer).await? else {
            tracing::warn!("the process to take over from has ended; this one goes on alone");
            let half = Half::bind(config, new_store, &mut offer)?;
            return Ok((half.complete(LOCKED_MAX).await?, None));
        };
        let half = Half::bind(config, new_store, &mut offer)?;
        let prepared = FromNew::Prepared { taken: offer.taken() };
        // From here on a process that is gone is one to go on without.
        let _ = channel.to.send(&prepared, &[]).await;
        drop(offer);
        loop {
            match channel.from.receive().await {
                Ok(FromOld::Line { pid, version }) => {
                    let line = channel.from.files(1).map_err(wrong)?.remove(0);
                    origin.elders.push((pid, version, line));
                }
                Ok(FromOld::Released { revision }) => {
                    origin.revision = revision;
                    break;
                }
                Ok(_) => {}
                Err(ChannelError::Closed) => {
                    tracing::warn!(pid = origin.pid, "the process before has ended already");
                    break;
                }
                Err(error) => return Err(wrong(error)),
            }
        }
        Ok((half.complete(LOCKED_MAX).await?, Some(origin)))
    }
}

fn wrong(error: ChannelError) -> StartError {
    StartError::TakeOver(error.to_string())
}

/// Says hello and takes the sockets. Nothing when the other process ends meanwhile.
async fn greet(
    channel: &mut Channel,
    config: &Config,
    offer: &mut Offer,
) -> Result<Option<Origin>, StartError> {
    let hello = FromNew::Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    };
    if channel.to.send(&hello, &[]).await.is_err() {
        return Ok(None);
    }
    let mut origin = None;
    loop {
        match channel.from.receive().await {
            Ok(FromOld::Welcome {
                protocol,
                version,
                pid,
                guarded,
                store,
                data_dir,
                store_format,
            }) => {
                if protocol != PROTOCOL {
                    let cause = format!("version {version} speaks protocol {protocol} of upgrades");
                    return Err(StartError::TakeOver(format!("{cause}, not {PROTOCOL}: restart")));
                }
                same("store.path", &config.store_path, &store)?;
                same("node.data_dir", &config.node.data_dir, &data_dir)?;
                known(&store, store_format)?;
                let (elders, revision) = (Vec::new(), Revision::default());
                origin = Some(Origin { pid, version, channel: None, guarded, elders, revision });
            }
            Ok(FromOld::Sockets { group, files }) => {
                offer.take_in(&group, channel.from.files(files).map_err(wrong)?);
            }
            Ok(FromOld::Offered) => return Ok(origin),
            Ok(_) => {}
            Err(ChannelError::Closed | ChannelError::Io(_)) => return Ok(None),
            Err(error) => return Err(wrong(error)),
        }
    }
}

/// Whether a place is still what it was: jobs and records do not move.
fn same(key: &str, ours: &Path, theirs: &Path) -> Result<(), StartError> {
    let is_same = match (ours.canonicalize(), theirs.canonicalize()) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        _ => ours == theirs,
    };
    if is_same {
        return Ok(());
    }
    let (ours, theirs) = (ours.display(), theirs.display());
    let cause = format!("{key} of the configuration is {ours}, but {theirs} is in use: restart");
    Err(StartError::TakeOver(cause))
}

/// Whether the store that is in use can be read.
fn known(store: &Path, format: u64) -> Result<(), OpenError> {
    if format > FORMAT {
        return Err(OpenError::Newer { path: store.to_owned(), format });
    }
    Ok(())
}

impl Origin {
    /// All of them count from the first acknowledgement on.
    pub(super) fn enter(&mut self, succession: &Succession) {
        if self.channel.is_some() {
            succession.expect(self.pid, &self.version);
        }
        for (pid, version, _) in &self.elders {
            succession.expect(*pid, version);
        }
    }

    /// Tells that this process serves, and begins to tend all lines.
    async fn succeed(&mut self, revision: Revision, succession: &Succession) {
        if let Some(mut channel) = self.channel.take() {
            let told = channel.to.send(&FromNew::Ready { revision }, &[]).await;
            let committed = async {
                told?;
                while !matches!(channel.from.receive().await?, FromOld::Commit) {}
                Ok::<_, ChannelError>(())
            };
            match committed.await {
                Ok(()) => succession.tend(self.pid, self.version.clone(), channel, self.revision),
                Err(error) => {
                    tracing::warn!(%error, "the process before has ended; this one leads");
                    succession.predecessors().remove(self.pid);
                }
            }
        }
        for (pid, version, line) in self.elders.drain(..) {
            match Channel::new(line.into()) {
                Ok(channel) => succession.tend(pid, version, channel, self.revision),
                Err(_) => succession.predecessors().remove(pid),
            }
        }
    }
}

impl Running {
    /// Tells whom it concerns that this process serves.
    pub(super) async fn tell_ready(&mut self) {
        if let Some(origin) = &mut self.origin {
            let revision = self.plane.live.revision();
            self.plane.router.wait_acked(revision).await;
            if self.plane.store.now().is_ok() {
                let mut connected = self.plane.live.follow_connected();
                let _ = connected.wait_for(|connected| *connected).await;
            }
            origin.succeed(revision, &self.plane.succession).await;
            tracing::info!(pid = std::process::id(), before = origin.pid, "this process leads");
        }
        handover::notify(&format!("READY=1\nMAINPID={}\nSTATUS=serving", std::process::id()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_store_that_is_in_use_is_gone_on_with_and_only_in_a_format_that_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let (store, other) = (dir.path().join("store.redb"), dir.path().join("other.redb"));
        std::fs::write(&store, "").unwrap();
        let roundabout = dir.path().join(".").join("store.redb");
        assert!(same("store.path", &roundabout, &store).is_ok());
        let error = same("store.path", &other, &store).unwrap_err();
        assert!(error.to_string().contains("is in use: restart"), "{error}");
        assert!(known(&store, FORMAT).is_ok());
        let error = known(&store, FORMAT + 1).unwrap_err();
        assert!(error.to_string().contains("newer than this program"), "{error}");
    }
}
