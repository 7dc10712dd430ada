//! A disk in memory that fails when it is told to, and that forgets what was not synced.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{BackendError, StorageBackend};

use crate::store::embedded::file::{self, Opener};

/// Disks tear a write at this size.
const SECTOR_BYTES: usize = 512;

/// What the next operations of a kind do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing can be written, as often as it is tried.
    Full,
    /// One sync fails; what it should have synced reads as if it had been.
    SyncOnce,
    /// One write panics.
    PanicOnce,
    /// The power fails after so many writes and syncs; nothing works any more.
    DeadAfter(usize),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Drive(Arc<Mutex<State>>);

/// The drive as it is open, until another one is in its place.
#[derive(Debug)]
struct Handle {
    drive: Drive,
    medium: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Which medium is in: nothing is read from one, or written to it, that was opened before.
    medium: usize,
    synced: Vec<u8>,
    seen: Vec<u8>,
    unsynced: Vec<Write>,
    fault: Option<Fault>,
}

#[derive(Debug, Clone)]
enum Write {
    At(usize, Vec<u8>),
    Length(usize),
}

impl Drive {
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        let state = State { synced: bytes.clone(), seen: bytes, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn opener(&self) -> Opener {
        let drive = self.clone();
        Arc::new(move |_| {
            let medium = drive.state().medium;
            file::builder().create_with_backend(Handle { drive: drive.clone(), medium })
        })
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Puts another medium in.
    pub(super) fn set_bytes(&self, bytes: Vec<u8>) {
        let mut state = self.state();
        state.medium += 1;
        (state.synced, state.seen) = (bytes.clone(), bytes);
        state.unsynced.clear();
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state().seen.clone()
    }

    /// What is on the disk after a power loss: what was synced, and any of what was not.
    pub(super) fn after_power_loss(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let state = self.state();
        let mut bytes = state.synced.clone();
        for write in &state.unsynced {
            match write {
                Write::Length(_) if random.bool() => {}
                Write::At(at, data) => {
                    for (number, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if random.bool() {
                            Write::At(at + number * SECTOR_BYTES, sector.to_vec()).to(&mut bytes);
                        }
                    }
                }
                Write::Length(_) => write.to(&mut bytes),
            }
        }
        bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Write {
    fn to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::At(at, data) => {
                let end = at + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(data);
            }
        }
    }
}

impl State {
    fn write(&mut self, write: Write) -> io::Result<()> {
        match self.fault {
            Some(Fault::Full) => return Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::PanicOnce) => {
                self.fault = None;
                panic!("a panic of the database, as ordered");
            }
            _ => self.live()?,
        }
        write.to(&mut self.seen);
        self.unsynced.push(write);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.fault == Some(Fault::SyncOnce) {
            self.fault = None;
            return Err(io::Error::other("a sync that fails, as ordered"));
        }
        self.live()?;
        self.synced.clone_from(&self.seen);
        self.unsynced.clear();
        Ok(())
    }

    fn live(&mut self) -> io::Result<()> {
        if let Some(Fault::DeadAfter(left)) = &mut self.fault {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::NotConnected)?;
        }
        Ok(())
    }
}

impl Handle {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.drive.state();
        if state.medium == self.medium {
            Ok(state)
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (state, at) = (self.state()?, offset as usize);
        let bytes = state.seen.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.state()?.write(Write::Length(length as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state()?.write(Write::At(offset as usize, data.to_vec()))
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}
