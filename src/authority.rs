//! A local authority: certificates for trying things out, and between machines of one's own. Two
//! files in a folder; whoever trusts `ca.pem` trusts what it issues.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// The file with the authority's certificate, for those who are to trust it.
pub const CA_FILE: &str = "ca.pem";
/// The file with its key, for nobody.
pub const CA_KEY_FILE: &str = "ca.key";

const CA_DAYS: i64 = 10 * 365;
const DAY_S: i64 = 24 * 3600;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is an authority already, and others may trust it.
    #[error("there is an authority already: {0}")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// It is no authority, or a name cannot stand in a certificate.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// No name.
    #[error("a certificate needs a name, such as shop.test, *.shop.test or 127.0.0.1")]
    NoName,
}

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// What a listener or an instance shows.
    Server,
    /// What a client shows.
    Client,
}

/// The files of a certificate and of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes an authority in `dir`.
///
/// # Errors
/// When there is one already, or a file cannot be written.
pub fn init(dir: &Path, now_s: i64) -> Result<Issued, AuthorityError> {
    let files = Issued { chain: dir.join(CA_FILE), key: dir.join(CA_KEY_FILE) };
    if let Some(there) = [&files.chain, &files.key].into_iter().find(|path| path.exists()) {
        return Err(AuthorityError::Exists(there.clone()));
    }
    fs::create_dir_all(dir)
        .map_err(|source| AuthorityError::File { path: dir.to_owned(), source })?;
    let mut params = params(Vec::new(), "Portolan local authority", now_s, CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(&files.key, &key.serialize_pem(), SECRET)?;
    write(&files.chain, &certificate.pem(), PUBLIC)?;
    Ok(files)
}

/// Issues a certificate of the authority in `dir` for these names, and puts it beside it under
/// the first of them. One that is there is replaced.
///
/// # Errors
/// When there is no authority, a name is none, or a file cannot be written.
pub fn issue(
    dir: &Path,
    names: &[String],
    purpose: Purpose,
    now_s: i64,
    days: u32,
) -> Result<Issued, AuthorityError> {
    let first = names.first().ok_or(AuthorityError::NoName)?;
    let read = |file: &str| {
        let path = dir.join(file);
        fs::read_to_string(&path).map_err(|source| AuthorityError::File { path, source })
    };
    let authority =
        Issuer::from_ca_cert_pem(&read(CA_FILE)?, KeyPair::from_pem(&read(CA_KEY_FILE)?)?)?;
    let mut params = params(names.to_vec(), first, now_s, days.into())?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority)?;
    let stem: String = first.chars().map(|c| if c == '*' { '_' } else { c }).collect();
    let stem = stem.replace(['/', ':'], "-");
    let files =
        Issued { chain: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key")) };
    write(&files.key, &key.serialize_pem(), SECRET)?;
    write(&files.chain, &certificate.pem(), PUBLIC)?;
    Ok(files)
}

fn params(
    names: Vec<String>,
    common: &str,
    now_s: i64,
    days: i64,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    // From yesterday on: the clocks of others may be behind.
    let (year, month, day) = civil((now_s - DAY_S).div_euclid(DAY_S));
    params.not_before = date_time_ymd(year, month, day);
    let (year, month, day) = civil((now_s + days * DAY_S).div_euclid(DAY_S));
    params.not_after = date_time_ymd(year, month, day);
    Ok(params)
}

/// The date of a day of Unix time (the algorithm of Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i32, u8, u8) {
    const DAYS_PER_ERA: i64 = 146_097;
    // Years begin in March here, so that the leap day is the last of them.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // A month and a day are small, and years are those of certificates.
    (year as i32, month as u8, day as u8)
}

const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;

/// Replaces a file as a whole.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let temporary = path.with_extension("new");
    let written = (|| {
        // One that a crash has left may have another mode.
        let _ = fs::remove_file(&temporary);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| AuthorityError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use portolan_router::Certificate;

    use super::*;
    use crate::clock;

    #[test]
    fn days_of_unix_time_are_dates() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_454, (2026, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), expected, "{days}");
        }
    }

    #[test]
    fn what_it_issues_is_for_its_names_and_days_and_its_keys_are_secret() {
        let dir = tempfile::tempdir().unwrap();
        let now_s = clock::unix_s();
        let authority = init(dir.path(), now_s).unwrap();
        let names = ["*.shop.test".to_owned(), "127.0.0.1".to_owned()];
        let issued = issue(dir.path(), &names, Purpose::Server, now_s, 30).unwrap();
        assert!(issued.chain.ends_with("_.shop.test.pem"));
        let read = |path: &Path| fs::read(path).unwrap();
        let certificate =
            Certificate::from_pem_at(&read(&issued.chain), &read(&issued.key), now_s).unwrap();
        assert!(certificate.covers("www.shop.test") && certificate.covers("127.0.0.1"));
        assert!((28..=30).contains(&certificate.days_left(now_s)));
        for key in [&authority.key, &issued.key] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(matches!(init(dir.path(), now_s), Err(AuthorityError::Exists(_))));
        assert!(matches!(
            issue(dir.path(), &[], Purpose::Server, now_s, 30),
            Err(AuthorityError::NoName)
        ));
    }

    #[test]
    fn without_an_authority_the_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = issue(dir.path(), &["a.test".to_owned()], Purpose::Client, 0, 1).unwrap_err();
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }
}
