//! The embedded back end: one file, nothing to install, one process.
//!
//! All keys lie in memory and are read there. One thread writes: it takes everything that waits,
//! commits it to the file in one go, publishes it and then answers. What the file refused is
//! never seen by a reader.

mod codec;
mod deadlines;
mod feed;
mod file;
mod image;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use self::deadlines::Deadlines;
use self::feed::Feed;
pub use self::file::FORMAT;
use self::file::Opener;
use self::image::Image;
use self::writer::{Request, Writer};
use super::{Outcome, Status, Store, StoreError, Txn, Watch, check_ttl};
use crate::model::{Kv, LeaseId, Revision};

/// What waits for the writer at the same time, in KiB; who comes later waits for room.
const QUEUE_KIB_MAX: usize = 64 << 10;
/// Leases at the same time; more than this is a leak of somebody.
const LEASES_MAX: usize = 16_384;

/// What to do when there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// Make an empty store.
    IfMissing,
    /// Say [`OpenError::Missing`].
    Never,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no file, and none was to be made.
    #[error("there is no store at {path}: put its file back, or allow a new one to be made")]
    Missing {
        /// Where the file should be.
        path: PathBuf,
    },
    /// The store is open already.
    #[error("the store at {path} is in use: stop the process that has it, or use another path")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error(
        "the store at {path} is damaged ({cause}): put a copy back, or move the file away to \
         begin with an empty store"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        cause: String,
    },
    /// The file was written by a later version.
    #[error("the store at {path} has format {format}, which is newer than this program")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
    /// The disk said no.
    #[error("cannot use {path} as a store: {source}; look at its folder, rights and free space")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// A store in one file of this machine. Dropping it writes what waits and closes the file.
pub struct Embedded {
    shared: Arc<Shared>,
    identity: String,
    slots: Arc<Semaphore>,
    is_closed: AtomicBool,
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What readers and the writer share.
struct Shared {
    live: RwLock<Live>,
    deadlines: Mutex<Deadlines>,
}

/// What is committed, and who is told.
struct Live {
    image: Image,
    feed: Feed,
}

impl Embedded {
    /// Opens the store at `path`. Blocks while the file is read; needs no runtime.
    pub fn open(path: &Path, create: Create) -> Result<Self, OpenError> {
        Self::open_on(path, create, file::real_disk())
    }

    fn open_on(path: &Path, create: Create, opener: Opener) -> Result<Self, OpenError> {
        let started = now();
        let (file, image) = file::open(path, create, &opener)?;
        let identity = file.identity().to_owned();
        tracing::info!(
            path = %path.display(),
            %identity,
            revision = image.revision().0,
            keys = image.keys_count(),
            took = ?now().duration_since(started),
            "store is open"
        );
        let shared = Arc::new(Shared {
            deadlines: Mutex::new(Deadlines::starting(image.leases(), now())),
            live: RwLock::new(Live { feed: Feed::starting(image.revision()), image }),
        });
        let (queue, requests) = mpsc::channel();
        let writer = Writer::new(path.to_owned(), opener, file, shared.clone(), requests);
        let writer = thread::Builder::new()
            .name("portolan-store".to_owned())
            .spawn(move || writer.run_to_the_end())
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self {
            shared,
            identity,
            slots: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
            is_closed: AtomicBool::new(false),
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Writes what waits and closes the file, whoever still holds the store: every later call is
    /// told so. Blocks until another process can open the file.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of the store panicked at its end");
        }
    }

    /// What was read after the end could be older than what another process has written.
    fn open_still(&self) -> Result<(), StoreError> {
        match self.is_closed.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(StoreError::Unavailable("the store was closed".to_owned())),
        }
    }

    async fn ask<T>(
        &self,
        bytes: usize,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> writer::Ask,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::Unavailable("the writer has ended".to_owned());
        let kib = u32::try_from(1 + bytes / 1024).unwrap_or(u32::MAX);
        let slots = self.slots.clone().acquire_many_owned(kib).await.map_err(|_| ended())?;
        let (answer, answered) = oneshot::channel();
        let request = Request::new(request(answer), slots);
        {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.as_ref().ok_or_else(ended)?.send(request).map_err(|_| ended())?;
        }
        answered.await.map_err(|_| ended())?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    // A panic under one of these locks leaves nothing half done: the changes are moves.
    fn read(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadlines(&self) -> std::sync::MutexGuard<'_, Deadlines> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image(&self) -> Image {
        self.read().image.clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "the store is the shell of its pure parts")]
fn now() -> Instant {
    Instant::now()
}

#[async_trait]
impl Store for Embedded {
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<Kv>, Revision), StoreError> {
        self.open_still()?;
        let image = self.shared.image();
        Ok((image.below(prefix).cloned().collect(), image.revision()))
    }

    async fn get(&self, key: &str) -> Result<Option<Kv>, StoreError> {
        self.open_still()?;
        Ok(self.shared.read().image.get(key).cloned())
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.open_still()?;
        let mut live = self.shared.write();
        let current = live.image.revision();
        live.feed.open(prefix, after, current, now())
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        self.ask(txn.bytes(), |answer| writer::Ask::Txn(txn, answer)).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        check_ttl(ttl)?;
        self.ask(0, |answer| writer::Ask::Grant(ttl, answer)).await
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.open_still()?;
        match self.shared.deadlines().keep(lease, now()) {
            true => Ok(()),
            false => Err(StoreError::NoLease(lease)),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(0, |answer| writer::Ask::Revoke(lease, answer)).await
    }

    async fn status(&self) -> Result<Status, StoreError> {
        self.open_still()?;
        Ok(Status {
            identity: self.identity.clone(),
            revision: self.shared.read().image.revision(),
            backend: "embedded",
        })
    }
}

#[cfg(test)]
mod tests;
