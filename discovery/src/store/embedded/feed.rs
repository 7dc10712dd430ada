//! The last events, and those who watch. Never waits for a reader.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::image::Batch;
use crate::model::{Event, Revision};
use crate::store::{StoreError, WATCH_PROGRESS_EVERY, Watch, WatchEvent, WatchSender};

/// Events that a watch can go back; a reader that was away for longer takes a snapshot.
pub(super) const RING_EVENTS_MAX: usize = 16_384;
/// Watches at the same time; more than this is a leak of somebody.
pub(super) const WATCHES_MAX: usize = 4096;
/// A watch whose prefix is quiet hears of other changes at most this often: a burst costs it
/// one word, not one each.
pub(super) const PROGRESS_GAP: Duration = Duration::from_millis(50);

/// The ring of the last events and the watchers.
#[derive(Debug, Default)]
pub(super) struct Feed {
    ring: VecDeque<Arc<Batch>>,
    ring_events: usize,
    /// All changes above this are in the ring.
    floor: Revision,
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    to: WatchSender,
    /// Up to here the reader knows everything.
    said: Revision,
    said_at: Instant,
}

impl Feed {
    /// A feed that knows nothing of the past.
    pub(super) fn starting(floor: Revision) -> Self {
        Self { floor, ..Self::default() }
    }

    /// Opens a watch; `current` is the store's revision.
    pub(super) fn open(
        &mut self,
        prefix: &str,
        after: Revision,
        current: Revision,
        now: Instant,
    ) -> Result<Watch, StoreError> {
        if after < self.floor || after > current {
            return Ok(Watch::channel(vec![WatchEvent::Compacted { oldest: self.floor }]).1);
        }
        if self.watchers.len() >= WATCHES_MAX {
            return Err(StoreError::Unavailable(format!("there are {WATCHES_MAX} watches")));
        }
        let from = self.ring.partition_point(|batch| batch.revision <= after);
        let mut backlog: Vec<_> =
            self.ring.iter().skip(from).filter_map(|batch| words(batch, prefix)).collect();
        backlog.push(WatchEvent::Progress(current));
        let (to, watch) = Watch::channel(backlog);
        self.watchers.push(Watcher { prefix: prefix.to_owned(), to, said: current, said_at: now });
        Ok(watch)
    }

    /// Tells the watchers what was committed.
    pub(super) fn publish(&mut self, batches: Vec<Batch>, now: Instant) {
        for batch in batches {
            self.watchers.retain_mut(|watcher| watcher.tell(&batch, now));
            self.ring_events += batch.events.len();
            self.ring.push_back(Arc::new(batch));
        }
        while self.ring_events > RING_EVENTS_MAX {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_events -= oldest.events.len();
            self.floor = oldest.revision;
        }
    }

    /// Tells the quiet watchers how far they are and lets go of those who left.
    pub(super) fn tick(&mut self, current: Revision, now: Instant) {
        self.watchers.retain_mut(|watcher| watcher.progress(current, now));
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_tick(&self, current: Revision, now: Instant) -> Option<Instant> {
        self.watchers.iter().map(|watcher| watcher.due(current).max(now + watcher.pause())).min()
    }

    /// Forgets the past and ends every watch.
    pub(super) fn reset(&mut self, floor: Revision, reason: &str) {
        for watcher in &self.watchers {
            watcher.to.lose(reason);
        }
        *self = Self::starting(floor);
    }
}

impl Watcher {
    fn tell(&mut self, batch: &Batch, now: Instant) -> bool {
        let Some(word) = words(batch, &self.prefix) else { return true };
        if !self.to.offer(word) {
            if !self.to.is_closed() {
                tracing::warn!(prefix = %self.prefix, "a slow reader lost its watch");
            }
            return false;
        }
        self.said = batch.revision;
        self.said_at = now;
        true
    }

    /// A reader that has not taken all yet is told later, so that progress never fills its queue.
    fn progress(&mut self, current: Revision, now: Instant) -> bool {
        if self.to.is_closed() {
            return false;
        }
        if now >= self.due(current) && self.to.is_idle() {
            self.to.offer(WatchEvent::Progress(current));
            self.said = current;
            self.said_at = now;
        }
        true
    }

    fn due(&self, current: Revision) -> Instant {
        self.said_at + if self.said < current { PROGRESS_GAP } else { WATCH_PROGRESS_EVERY }
    }

    fn pause(&self) -> Duration {
        if self.to.is_idle() { Duration::ZERO } else { PROGRESS_GAP }
    }
}

fn words(batch: &Batch, prefix: &str) -> Option<WatchEvent> {
    let below = |event: &&Event| event.key().starts_with(prefix);
    let events: Vec<_> = batch.events.iter().filter(below).cloned().collect();
    (!events.is_empty()).then_some(WatchEvent::Batch { revision: batch.revision, events })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a start to count from")]
mod tests {
    use super::*;

    fn batch(revision: u64, keys: &[&str]) -> Batch {
        let revision = Revision(revision);
        let delete = |key: &&str| Event::Delete { key: (*key).to_owned(), revision };
        Batch { revision, events: keys.iter().map(delete).collect() }
    }

    fn said(watch: &mut Watch) -> Option<WatchEvent> {
        use std::task::{Context, Poll, Waker};
        let mut next = std::pin::pin!(watch.next());
        match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(word) => Some(word),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_burst_outside_of_the_prefix_costs_one_word_each_gap() {
        let now = Instant::now();
        let mut feed = Feed::default();
        let mut watch = feed.open("/a/", Revision(0), Revision(0), now).unwrap();
        assert_eq!(said(&mut watch), Some(WatchEvent::Progress(Revision(0))));
        let mut heard = Vec::new();
        for ms in 0..200 {
            let (revision, now) = (ms + 1, now + Duration::from_millis(ms));
            feed.publish(vec![batch(revision, &["/b/1"])], now);
            feed.tick(Revision(revision), now);
            heard.extend(said(&mut watch));
        }
        assert_eq!(heard, [51, 101, 151].map(|revision| WatchEvent::Progress(Revision(revision))));
    }

    #[test]
    fn a_quiet_watch_hears_each_second_how_far_it_is() {
        let now = Instant::now();
        let mut feed = Feed::default();
        let mut watch = feed.open("/a/", Revision(0), Revision(7), now).unwrap();
        assert_eq!(said(&mut watch), Some(WatchEvent::Progress(Revision(7))));
        assert_eq!(feed.next_tick(Revision(7), now), Some(now + WATCH_PROGRESS_EVERY));
        feed.tick(Revision(7), now + WATCH_PROGRESS_EVERY / 2);
        assert_eq!(said(&mut watch), None);
        feed.tick(Revision(7), now + WATCH_PROGRESS_EVERY);
        assert_eq!(said(&mut watch), Some(WatchEvent::Progress(Revision(7))));
    }

    #[test]
    fn progress_does_not_fill_the_queue_of_a_slow_reader() {
        let now = Instant::now();
        let mut feed = Feed::default();
        let mut watch = feed.open("/a/", Revision(0), Revision(0), now).unwrap();
        feed.publish(vec![batch(1, &["/a/1"])], now);
        for second in 1..10 {
            feed.tick(Revision(1), now + Duration::from_secs(second));
        }
        assert_eq!(said(&mut watch), Some(WatchEvent::Progress(Revision(0))));
        assert!(matches!(said(&mut watch), Some(WatchEvent::Batch { .. })));
        assert_eq!(said(&mut watch), None);
    }

    #[test]
    fn the_ring_keeps_the_last_events_and_says_where_it_begins() {
        let now = Instant::now();
        let mut feed = Feed::starting(Revision(10));
        let last = 10 + RING_EVENTS_MAX as u64 + 5;
        for revision in 11..=last {
            feed.publish(vec![batch(revision, &["/a"])], now);
        }
        let mut first = |after| {
            let mut watch = feed.open("", Revision(after), Revision(last), now).unwrap();
            said(&mut watch).unwrap()
        };
        let compacted = WatchEvent::Compacted { oldest: Revision(15) };
        for forgotten in [0, 14, last + 1] {
            assert_eq!(first(forgotten), compacted, "{forgotten}");
        }
        for (after, next) in [(15, 16), (16, 17), (last - 1, last)] {
            assert!(
                matches!(first(after), WatchEvent::Batch { revision, .. } if revision.0 == next),
                "{after}"
            );
        }
        assert_eq!(first(last), WatchEvent::Progress(Revision(last)));
    }

    #[test]
    fn who_left_is_let_go() {
        let now = Instant::now();
        let mut feed = Feed::default();
        drop(feed.open("", Revision(0), Revision(0), now).unwrap());
        feed.tick(Revision(0), now);
        assert_eq!(feed.watchers.len(), 0);
    }
}
