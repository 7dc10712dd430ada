//! Readiness: each part that must be up holds a token until it is.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Who is not ready yet.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Readiness {
    /// A token of `part`; when it is dropped, the part is ready.
    pub fn token(&self, part: &'static str) -> ReadyToken {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(part);
        ReadyToken { part, readiness: self.clone() }
    }

    /// The parts that are not ready, by name.
    pub fn waiting(&self) -> Vec<&'static str> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Held by a part until it is ready.
#[derive(Debug)]
pub struct ReadyToken {
    part: &'static str,
    readiness: Readiness,
}

impl Drop for ReadyToken {
    fn drop(&mut self) {
        let mut waiting = self.readiness.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(self.part);
    }
}
