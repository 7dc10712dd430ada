//! Certificates in files: read as pairs, and followed as they change. A pair that is not good is
//! not taken, and the last good one is shown. Those of the store are beside them.

mod stored;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_discovery::model::CertificateName;
use portolan_router::{CHAIN_BYTES_MAX, Certificate, CertificateError};

use crate::clock;

#[cfg(test)]
pub(crate) use stored::tests::{pair, pem};
pub use stored::{PairError, Stored, check, judge};

/// The days that a certificate must still hold for nobody to be told.
pub(crate) const DAYS_FEW: i64 = 14;

/// A chain and its key in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The name of the certificate.
    pub name: CertificateName,
    /// The file of the chain.
    pub chain_file: PathBuf,
    /// The file of the key.
    pub key_file: PathBuf,
}

/// Why a pair of files is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFilesError {
    /// A file cannot be read.
    #[error("certificate \"{name}\": cannot read {path}: {source}")]
    Read {
        /// The certificate.
        name: CertificateName,
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// They are no pair.
    #[error("certificate \"{name}\": {chain} with {key}: {source}")]
    Pair {
        /// The certificate.
        name: CertificateName,
        /// The file of the chain.
        chain: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        source: Box<CertificateError>,
    },
}

impl CertificateFiles {
    /// Reads and checks the pair, whether or not it has expired.
    pub fn load(&self) -> Result<Certificate, CertificateFilesError> {
        self.read(Certificate::from_pem)
    }

    /// Reads and checks a pair that is to take the place of another one: one that has expired
    /// would be no gain.
    fn load_fresh(&self) -> Result<Certificate, CertificateFilesError> {
        self.read(|chain, key| Certificate::from_pem_at(chain, key, clock::unix_s()))
    }

    fn read(
        &self,
        make: impl FnOnce(&[u8], &[u8]) -> Result<Certificate, CertificateError>,
    ) -> Result<Certificate, CertificateFilesError> {
        let text = |path: &Path| {
            read_bounded(path).map_err(|source| CertificateFilesError::Read {
                name: self.name.clone(),
                path: path.to_owned(),
                source,
            })
        };
        make(&text(&self.chain_file)?, &text(&self.key_file)?).map_err(|source| {
            CertificateFilesError::Pair {
                name: self.name.clone(),
                chain: self.chain_file.clone(),
                key: self.key_file.clone(),
                source: Box::new(source),
            }
        })
    }

    /// What a person should know of a pair that is good: who can read its key, and how long it
    /// still holds.
    pub fn warnings(&self, certificate: &Certificate) -> Vec<String> {
        const OTHERS: u32 = 0o077;
        let mut warnings = Vec::new();
        let mode = fs::metadata(&self.key_file).map_or(0, |file| file.permissions().mode());
        if mode & OTHERS != 0 {
            warnings.push(format!(
                "certificate {}: others can read {}: chmod 0600 it",
                self.name,
                self.key_file.display()
            ));
        }
        match certificate.days_left(clock::unix_s()) {
            days @ ..0 => {
                warnings.push(format!("certificate {} expired {} days ago", self.name, -days))
            }
            days @ 0..DAYS_FEW => {
                warnings.push(format!("certificate {} expires in {days} days", self.name));
            }
            _ => {}
        }
        warnings
    }

    fn stamp(&self) -> Stamp {
        [&self.chain_file, &self.key_file].map(|path| {
            let file = fs::metadata(path).ok()?;
            Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec(), file.ctime_nsec()))
        })
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    if length > CHAIN_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it has {length} bytes, more than {CHAIN_BYTES_MAX}"
        )));
    }
    fs::read(path)
}

/// What tells that a file has changed: inode, length and times.
type Stamp = [Option<(u64, u64, i64, i64, i64)>; 2];

/// A pair that is followed.
#[derive(Debug)]
struct Followed {
    files: CertificateFiles,
    shown: Arc<Certificate>,
    /// As the files were when they were read last.
    read: Stamp,
    /// As they were at the last look.
    seen: Stamp,
}

/// Pairs that are followed as they change.
#[derive(Debug)]
pub struct Follower {
    followed: Vec<Followed>,
}

/// What a look at the files has found.
#[derive(Debug, Default)]
pub struct Look {
    /// A certificate has changed.
    pub changed: bool,
    /// Pairs that are not taken.
    pub refused: Vec<(CertificateName, CertificateFilesError)>,
}

impl Follower {
    /// Reads every pair.
    ///
    /// # Errors
    /// When one cannot be read: there is no last good one.
    pub fn start(all: Vec<CertificateFiles>) -> Result<Self, CertificateFilesError> {
        let follow = |files: CertificateFiles| {
            let stamp = files.stamp();
            let shown = Arc::new(files.load()?);
            for warning in files.warnings(&shown) {
                tracing::warn!("{warning}");
            }
            Ok(Followed { files, shown, read: stamp, seen: stamp })
        };
        Ok(Self { followed: all.into_iter().map(follow).collect::<Result<_, _>>()? })
    }

    /// The last good certificates, in the order of the configuration.
    pub fn certificates(&self) -> impl Iterator<Item = (CertificateName, Arc<Certificate>)> {
        self.followed.iter().map(|pair| (pair.files.name.clone(), Arc::clone(&pair.shown)))
    }

    /// Looks at the files, and reads what has changed and then looked the same twice: whoever
    /// renews a certificate writes two files, one after the other.
    pub fn look(&mut self) -> Look {
        let mut look = Look::default();
        for pair in &mut self.followed {
            let stamp = pair.files.stamp();
            let settled = std::mem::replace(&mut pair.seen, stamp) == stamp;
            if !settled || stamp == pair.read {
                continue;
            }
            pair.read = stamp;
            match pair.files.load_fresh() {
                Ok(certificate) if certificate == *pair.shown => {}
                Ok(certificate) => {
                    tracing::info!(
                        certificate = %pair.files.name, days = certificate.days_left(clock::unix_s()),
                        "a certificate was renewed"
                    );
                    pair.shown = Arc::new(certificate);
                    look.changed = true;
                }
                Err(error) => {
                    tracing::error!(%error, "a certificate is not taken; the last good one is shown");
                    look.refused.push((pair.files.name.clone(), error));
                }
            }
        }
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn write(&self, pair: &(String, String)) {
            fs::write(self.0.path().join("chain.pem"), &pair.0).unwrap();
            fs::write(self.0.path().join("key.pem"), &pair.1).unwrap();
        }

        fn files(&self) -> CertificateFiles {
            CertificateFiles {
                name: CertificateName::parse("web").unwrap(),
                chain_file: self.0.path().join("chain.pem"),
                key_file: self.0.path().join("key.pem"),
            }
        }
    }

    fn pair(change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn fresh() -> (String, String) {
        pair(|_| {})
    }

    #[test]
    fn a_pair_is_taken_once_it_has_settled_and_a_bad_one_leaves_the_last_good_one() {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write(&fresh());
        let mut follower = Follower::start(vec![folder.files()]).unwrap();
        let shown = |follower: &Follower| follower.certificates().next().unwrap().1;
        let first = shown(&follower);
        assert!(!follower.look().changed);

        folder.write(&fresh());
        assert!(!follower.look().changed, "it may not be whole yet");
        assert!(follower.look().changed);
        let second = shown(&follower);
        assert_ne!(first, second);

        folder.write(&(fresh().0, fresh().1));
        follower.look();
        let look = follower.look();
        let [(name, error)] = &look.refused[..] else { panic!("{look:?}") };
        assert_eq!(name.as_str(), "web");
        let text = error.to_string();
        assert!(text.contains("chain.pem") && text.contains("does not belong"), "{text}");
        assert_eq!(shown(&follower), second);
        assert!(follower.look().refused.is_empty(), "said once a change");

        folder.write(&pair(|params| params.not_after = rcgen::date_time_ymd(2000, 1, 1)));
        follower.look();
        assert!(follower.look().refused[0].1.to_string().contains("expired"));
        fs::remove_file(folder.files().key_file).unwrap();
        follower.look();
        assert!(follower.look().refused[0].1.to_string().contains("key.pem"));
        assert_eq!(shown(&follower), second);
    }

    #[test]
    fn a_key_that_others_can_read_and_a_near_end_are_warned_of() {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write(&pair(|params| params.not_after = rcgen::date_time_ymd(2000, 1, 1)));
        let files = folder.files();
        fs::set_permissions(&files.key_file, fs::Permissions::from_mode(0o644)).unwrap();
        let warnings = files.warnings(&files.load().unwrap());
        assert!(warnings.len() == 2 && warnings[0].contains("chmod 0600"), "{warnings:?}");
        assert!(warnings[1].contains("expired"), "{warnings:?}");
        folder.write(&fresh());
        fs::set_permissions(&files.key_file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(files.warnings(&files.load().unwrap()), Vec::<String>::new());
    }
}
