//! The file under the store: opened, made, read whole, and added to one commit at a time.
//!
//! The only place that knows the database. It keeps nothing in memory but the open file.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::codec;
use super::image::{Change, Image};
use super::{Create, OpenError};
use crate::model::Revision;

/// The format of the tables; a file with a higher one is from a later version.
pub const FORMAT: u64 = 1;
/// Everything lies in memory anyhow: the database needs pages only to change them.
const PAGES_BYTES_MAX: usize = 16 << 20;
const COPY_BYTES: usize = 1 << 20;

const KVS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("kv");
const LEASES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("lease");
const META: TableDefinition<&[u8], &[u8]> = TableDefinition::new("meta");

const META_FORMAT: &[u8] = b"format";
const META_IDENTITY: &[u8] = b"identity";
const META_REVISION: &[u8] = b"revision";
const META_LEASE_LAST: &[u8] = b"lease_last";

/// Makes a database of a file; tests put their own disk under it.
pub(super) type Opener = Arc<dyn Fn(File) -> Result<Database, DatabaseError> + Send + Sync>;

/// The opener for real files.
pub(super) fn real_disk() -> Opener {
    Arc::new(|file| builder().create_with_backend(FileBackend::new(file)?))
}

/// The settings of a database. All is checked when it is opened: a flipped bit is found then
/// and not when it has spread.
pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(PAGES_BYTES_MAX).set_check_integrity_on_open(true);
    builder
}

/// The open file.
pub(super) struct StoreFile {
    path: PathBuf,
    database: Database,
    identity: String,
}

/// Opens the file and reads all of it.
pub(super) fn open(
    path: &Path,
    create: Create,
    opener: &Opener,
) -> Result<(StoreFile, Image), OpenError> {
    let at = |source| OpenError::Io { path: path.to_owned(), source };
    let file = match open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && create == Create::IfMissing => {
            make(path, opener)?;
            open_file(path).map_err(at)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Missing { path: path.to_owned() });
        }
        file => file.map_err(at)?,
    };
    // An empty file would be made a database of; but a store is never empty, so one that is
    // has lost its content, and that must be seen.
    if file.metadata().map_err(at)?.len() == 0 {
        return Err(OpenError::Damaged { path: path.to_owned(), cause: "it is empty".to_owned() });
    }
    let database = opener(file).map_err(|error| open_error(path, error.into()))?;
    let (identity, image) = read(&database).map_err(|error| match error {
        ReadError::Database(error) => open_error(path, error),
        ReadError::Record(cause) => OpenError::Damaged { path: path.to_owned(), cause },
        ReadError::Newer(format) => OpenError::Newer { path: path.to_owned(), format },
    })?;
    Ok((StoreFile { path: path.to_owned(), database, identity }, image))
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Makes the file of an empty store. It is whole before it has its name, so that a crash leaves
/// no half of it; and it never takes the place of one that another process made meanwhile.
fn make(path: &Path, opener: &Opener) -> Result<(), OpenError> {
    let at = |source| OpenError::Io { path: path.to_owned(), source };
    let mut beside = path.to_owned().into_os_string();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut options = OpenOptions::new();
    // The environment of jobs lies in it.
    options.mode(0o600);
    let file = options.read(true).write(true).create(true).truncate(true).open(&beside);
    let made = opener(file.map_err(at)?)
        .map_err(redb::Error::from)
        .and_then(|database| {
            write_head(&database)?;
            Ok(database.close()?)
        })
        .map_err(|error| open_error(path, error));
    let named = made.and_then(|()| match fs::hard_link(&beside, path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // A disk without links.
        Err(_) => fs::rename(&beside, path).map_err(at),
    });
    // After a rename there is nothing to remove.
    let _ = fs::remove_file(&beside);
    named?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at)
}

fn write_head(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        txn.open_table(KVS)?;
        txn.open_table(LEASES)?;
        let mut meta = txn.open_table(META)?;
        meta.insert(META_FORMAT, &FORMAT.to_le_bytes()[..])?;
        meta.insert(META_IDENTITY, new_identity().as_bytes())?;
        meta.insert(META_REVISION, &0_u64.to_le_bytes()[..])?;
        meta.insert(META_LEASE_LAST, &0_u64.to_le_bytes()[..])?;
    }
    Ok(txn.commit()?)
}

/// 128 bits in hex. The standard library seeds its hashers from the system's randomness.
fn new_identity() -> String {
    let word = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}

enum ReadError {
    Database(redb::Error),
    Record(String),
    Newer(u64),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

fn read(database: &Database) -> Result<(String, Image), ReadError> {
    let txn = database.begin_read()?;
    let meta = match txn.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(ReadError::Record("it is a database, but not a store".to_owned()));
        }
        meta => meta?,
    };
    let field = |name: &[u8]| -> Result<Vec<u8>, ReadError> {
        meta.get(name)?.map(|value| value.value().to_owned()).ok_or_else(|| {
            ReadError::Record(format!("it does not say its {}", String::from_utf8_lossy(name)))
        })
    };
    let number = |name| codec::decode_number(&field(name)?).map_err(ReadError::Record);
    match number(META_FORMAT)? {
        0..=FORMAT => {}
        newer => return Err(ReadError::Newer(newer)),
    }
    let identity = String::from_utf8(field(META_IDENTITY)?)
        .map_err(|_| ReadError::Record("its identity is no text".to_owned()))?;
    let revision = Revision(number(META_REVISION)?);
    let mut leases = Vec::new();
    for record in txn.open_table(LEASES)?.iter()? {
        let (key, value) = record?;
        leases.push(codec::decode_lease(key.value(), value.value()).map_err(ReadError::Record)?);
    }
    let mut kvs = Vec::new();
    for record in txn.open_table(KVS)?.iter()? {
        let (key, value) = record?;
        let kv = codec::decode_kv(key.value(), value.value()).map_err(ReadError::Record)?;
        if kv.modified > revision {
            return Err(ReadError::Record(format!(
                "{} was changed at revision {}, but the store is at {revision}",
                kv.key, kv.modified
            )));
        }
        kvs.push(kv);
    }
    Ok((identity, Image::restore(revision, number(META_LEASE_LAST)?, leases, kvs)))
}

fn open_error(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    // The database says by these that the content, not the disk, is at fault.
    let is_content =
        |kind| matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            OpenError::Locked { path }
        }
        redb::Error::Io(source) if !is_content(source.kind()) => OpenError::Io { path, source },
        error => OpenError::Damaged { path, cause: error.to_string() },
    }
}

impl StoreFile {
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Writes the changes that led to `image`. When it returns, a crash cannot lose them; when
    /// it fails, they may be there or not, and the file has to be opened again.
    pub(super) fn commit(&self, changes: &[Change], image: &Image) -> Result<(), redb::Error> {
        let txn = self.database.begin_write()?;
        {
            let is_lease =
                |change: &&Change| matches!(change, Change::LeaseMade(..) | Change::LeaseEnded(..));
            // A table costs pages of its own in each commit: only those that change are opened.
            if changes.iter().any(|change| is_lease(&change)) {
                let mut leases = txn.open_table(LEASES)?;
                for change in changes.iter().filter(is_lease) {
                    match change {
                        Change::LeaseMade(id, ttl) => {
                            let ttl = codec::encode_lease(*ttl);
                            leases.insert(&codec::encode_lease_id(*id)[..], &ttl[..])?;
                        }
                        Change::LeaseEnded(id) => {
                            leases.remove(&codec::encode_lease_id(*id)[..])?;
                        }
                        Change::Put(_) | Change::Delete(_) => {}
                    }
                }
            }
            if changes.iter().any(|change| !is_lease(&change)) {
                let mut kvs = txn.open_table(KVS)?;
                for change in changes {
                    match change {
                        Change::Put(kv) => {
                            kvs.insert(kv.key.as_bytes(), &codec::encode_kv(kv)[..])?;
                        }
                        Change::Delete(key) => {
                            kvs.remove(key.as_bytes())?;
                        }
                        Change::LeaseMade(..) | Change::LeaseEnded(..) => {}
                    }
                }
            }
            let mut meta = txn.open_table(META)?;
            meta.insert(META_REVISION, &image.revision().0.to_le_bytes()[..])?;
            meta.insert(META_LEASE_LAST, &image.lease_last().to_le_bytes()[..])?;
        }
        Ok(txn.commit()?)
    }

    /// Writes every byte of the file again. After a failed sync the system holds pages that it
    /// takes for written and that never reached the disk; this makes them dirty again.
    pub(super) fn rewrite(&self) -> io::Result<()> {
        let mut file = open_file(&self.path)?;
        let mut bytes = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            file.seek(SeekFrom::Start(at))?;
            let read = file.read(&mut bytes)?;
            if read == 0 {
                return file.sync_all();
            }
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&bytes[..read])?;
            at += read as u64;
        }
    }

    /// Closes the file, so that the next start need not check for a crash.
    pub(super) fn close(self) -> Result<(), DatabaseError> {
        self.database.close()
    }
}
