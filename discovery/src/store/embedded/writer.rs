//! The one thread that writes: group commit, the ends of leases, and the way back from a disk
//! that failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{mem, thread};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::deadlines::Deadlines;
use super::file::{self, Opener, StoreFile};
use super::image::{Image, Log};
use super::{Create, LEASES_MAX, Shared, now};
use crate::model::LeaseId;
use crate::store::{Outcome, StoreError, Txn};

/// Requests of one commit: more would make the first of them wait for too long.
const GROUP_REQUESTS_MAX: usize = 512;
/// Bytes of one commit.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// The writer looks at the clock at least this often.
const TICK: Duration = Duration::from_millis(500);
/// A writer that was late by more than this was frozen, and its clients could not reach it.
const FROZEN_MIN: Duration = Duration::from_secs(1);
/// Time between two tries to open a file whose disk failed.
const REOPEN_EVERY: Duration = Duration::from_secs(1);
/// Time before the writer goes on after a panic.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked.
pub(super) enum Ask {
    Txn(Txn, Answer<Outcome>),
    Grant(Duration, Answer<LeaseId>),
    Revoke(LeaseId, Answer<()>),
}

/// What waits for the writer, and the room in the queue that it takes.
pub(super) struct Request {
    ask: Ask,
    slots: OwnedSemaphorePermit,
}

impl Request {
    pub(super) fn new(ask: Ask, slots: OwnedSemaphorePermit) -> Self {
        Self { ask, slots }
    }

    /// Who has gone away gets nothing done: a late write could undo what came after.
    fn is_abandoned(&self) -> bool {
        match &self.ask {
            Ask::Txn(_, answer) => answer.is_closed(),
            Ask::Grant(_, answer) => answer.is_closed(),
            Ask::Revoke(_, answer) => answer.is_closed(),
        }
    }
}

/// The thread.
pub(super) struct Writer {
    path: PathBuf,
    opener: Opener,
    disk: Disk,
    identity: String,
    failures: u64,
    shared: Arc<Shared>,
    requests: Receiver<Request>,
}

enum Disk {
    Good(StoreFile),
    Failed { cause: String, retry_at: Instant },
}

/// Sends an answer when it is known whether the commit went.
type Reply = Box<dyn FnOnce(&Result<(), StoreError>)>;

/// What one commit holds.
struct Group {
    image: Image,
    log: Log,
    answers: Vec<Reply>,
    granted: Vec<(LeaseId, Duration)>,
    ended: Vec<LeaseId>,
    bytes: usize,
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        opener: Opener,
        file: StoreFile,
        shared: Arc<Shared>,
        requests: Receiver<Request>,
    ) -> Self {
        let identity = file.identity().to_owned();
        Self { path, opener, disk: Disk::Good(file), identity, failures: 0, shared, requests }
    }

    /// Works until the store is dropped. A panic costs the commit in which it happens.
    pub(super) fn run_to_the_end(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            self.fail("the writer panicked".to_owned());
            thread::sleep(PANIC_PAUSE);
        }
        let mut live = self.shared.write();
        let revision = live.image.revision();
        live.feed.reset(revision, "the store was closed");
        drop(live);
        if let Disk::Good(file) = self.disk
            && let Err(error) = file.close()
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot close the store");
        }
    }

    fn run(&mut self) {
        loop {
            let (slept_from, pause) = (now(), self.pause());
            let first = match self.requests.recv_timeout(pause) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(late) = overslept(pause, now() - slept_from) {
                tracing::warn!(?late, "the store was frozen: its leases live on by as much");
                self.shared.deadlines().extend(late);
            }
            self.reopen_if_due();
            let group = self.collect(first);
            self.settle(group);
            let mut live = self.shared.write();
            let revision = live.image.revision();
            live.feed.tick(revision, now());
        }
    }

    /// Until when there is nothing to do, unless somebody asks.
    fn pause(&self) -> Duration {
        let now = now();
        let live = self.shared.read();
        let tick = live.feed.next_tick(live.image.revision(), now);
        let lease = match &self.disk {
            Disk::Good(_) => self.shared.deadlines().next(),
            Disk::Failed { retry_at, .. } => Some(*retry_at),
        };
        let next = [tick, lease].into_iter().flatten().min();
        next.map_or(TICK, |next| next.saturating_duration_since(now).min(TICK))
    }

    /// Takes what is due and what waits, up to the limits of one commit.
    fn collect(&self, first: Option<Request>) -> Group {
        let mut group = Group::new(self.shared.image());
        // Without a disk no lease can end; they stay due.
        if matches!(self.disk, Disk::Good(_)) {
            let due = self.shared.deadlines().due(now());
            for lease in due {
                group.expire(lease);
            }
        }
        let mut next = first;
        let mut count = 0;
        while let Some(request) = next {
            group.take(request);
            count += 1;
            let has_room = count < GROUP_REQUESTS_MAX && group.bytes < GROUP_BYTES_MAX;
            next = if has_room { self.requests.try_recv().ok() } else { None };
        }
        group
    }

    /// Commits, then publishes, then answers.
    fn settle(&mut self, group: Group) {
        let Group { image, log, answers, granted, ended, .. } = group;
        let written = match log.changes.is_empty() {
            true => Ok(()),
            false => self.commit(&image, &log),
        };
        if written.is_ok() {
            let now = now();
            let mut live = self.shared.write();
            live.image = image;
            live.feed.publish(log.batches, now);
            drop(live);
            let mut deadlines = self.shared.deadlines();
            granted.into_iter().for_each(|(lease, ttl)| deadlines.begin(lease, ttl, now));
            ended.into_iter().for_each(|lease| deadlines.forget(lease));
        }
        for answer in answers {
            answer(&written);
        }
    }

    fn commit(&mut self, image: &Image, log: &Log) -> Result<(), StoreError> {
        let failed = match &self.disk {
            Disk::Good(file) => match file.commit(&log.changes, image) {
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            },
            Disk::Failed { cause, .. } => return Err(StoreError::Unavailable(cause.clone())),
        };
        self.fail(failed.clone());
        Err(StoreError::Unavailable(failed))
    }

    /// The database refuses everything after a failed write until it is opened again.
    fn fail(&mut self, cause: String) {
        self.failures += 1;
        tracing::error!(
            path = %self.path.display(),
            %cause,
            failures = self.failures,
            "cannot write the store: nothing was changed, reads go on"
        );
        let failed = mem::replace(&mut self.disk, Disk::Failed { cause, retry_at: now() });
        // A database that panicked in a commit panics once more when it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(failed)));
    }

    fn reopen_if_due(&mut self) {
        let Disk::Failed { retry_at, .. } = &self.disk else { return };
        if now() < *retry_at {
            return;
        }
        match self.reopen() {
            Ok(file) => {
                tracing::info!(path = %self.path.display(), "the store can be written again");
                self.disk = Disk::Good(file);
            }
            Err(cause) => {
                tracing::warn!(path = %self.path.display(), %cause, "the store's disk still fails");
                self.disk = Disk::Failed { cause, retry_at: now() + REOPEN_EVERY };
            }
        }
    }

    /// Opens the file again and goes on from what it holds. The commit that failed may be in it,
    /// or not: who asked for it was told that nobody knows. What was published must be in it.
    fn reopen(&self) -> Result<StoreFile, String> {
        let (file, image) = file::open(&self.path, Create::Never, &self.opener)
            .map_err(|error| error.to_string())?;
        if file.identity() != self.identity {
            return Err("another store lies in the place of this one".to_owned());
        }
        let published = self.shared.read().image.revision();
        if image.revision() < published {
            return Err(format!(
                "an older copy of the store lies in its place, of revision {} instead of \
                 {published}",
                image.revision()
            ));
        }
        file.rewrite().map_err(|error| error.to_string())?;
        let mut live = self.shared.write();
        if image.revision() > published {
            // Events are not known for what came in between, so every watch starts anew.
            live.feed.reset(image.revision(), "the store was read again");
        }
        // Also at the same revision: leases are made and end without one.
        *self.shared.deadlines() = Deadlines::starting(image.leases(), now());
        live.image = image;
        Ok(file)
    }
}

impl Group {
    fn new(image: Image) -> Self {
        Self {
            image,
            log: Log::default(),
            answers: Vec::new(),
            granted: Vec::new(),
            ended: Vec::new(),
            bytes: 0,
        }
    }

    fn expire(&mut self, lease: LeaseId) {
        if let Some(keys) = self.image.end(lease, &mut self.log) {
            tracing::info!(lease = lease.0, keys, "a lease has run out");
        }
        self.ended.push(lease);
    }

    fn take(&mut self, request: Request) {
        if request.is_abandoned() {
            return;
        }
        let Request { ask, slots } = request;
        match ask {
            Ask::Txn(txn, answer) => {
                self.bytes += txn.bytes();
                let outcome = self.image.txn(txn, &mut self.log);
                self.answer(answer, outcome, slots);
            }
            Ask::Grant(ttl, answer) => {
                let outcome = match self.image.leases_count() {
                    0..LEASES_MAX => {
                        let lease = self.image.grant(ttl, &mut self.log);
                        self.granted.push((lease, ttl));
                        Ok(lease)
                    }
                    count => Err(StoreError::Unavailable(format!("there are {count} leases"))),
                };
                self.answer(answer, outcome, slots);
            }
            Ask::Revoke(lease, answer) => {
                let outcome = match self.image.end(lease, &mut self.log) {
                    Some(_) => {
                        self.ended.push(lease);
                        Ok(())
                    }
                    None => Err(StoreError::NoLease(lease)),
                };
                self.answer(answer, outcome, slots);
            }
        }
    }

    /// Answers when the commit is done, also what changes nothing: what it saw may be part of
    /// this commit.
    fn answer<T: 'static>(
        &mut self,
        answer: Answer<T>,
        outcome: Result<T, StoreError>,
        slots: OwnedSemaphorePermit,
    ) {
        self.answers.push(Box::new(move |written| {
            // Who has gone away needs no answer.
            let _ = answer.send(written.clone().and(outcome));
            drop(slots);
        }));
    }
}

/// How long the writer slept more than it wanted to, when that is worth a word.
fn overslept(wanted: Duration, slept: Duration) -> Option<Duration> {
    slept.checked_sub(wanted).filter(|late| *late >= FROZEN_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_frozen_writer_has_overslept() {
        let ms = Duration::from_millis;
        for (wanted, slept, late) in
            [(500, 500, None), (500, 20, None), (500, 1499, None), (500, 9500, Some(9000))]
        {
            assert_eq!(overslept(ms(wanted), ms(slept)), late.map(ms), "{wanted} {slept}");
        }
    }
}
