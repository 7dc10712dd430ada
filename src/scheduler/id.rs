//! Makes the ids of jobs, and the hash that breaks ties between nodes. Both are the same on
//! every machine and in every version.

use std::collections::HashSet;

use portolan_discovery::model::JobId;
use portolan_discovery::model::name::NAME_BYTES_MAX;

use super::{ClusterView, Group};

/// Digits without those that people take for one another; all of them fit a DNS label.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Digits at the end of an id: 30 bits, so that two lives of a job hardly ever share one.
const TAIL_DIGITS: usize = 6;

/// FNV-1a, finished by MurmurHash3's mixer because FNV leaves the high bits of short texts alike.
pub(super) fn hash<'t>(parts: impl IntoIterator<Item = &'t [u8]>) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // A name never has the byte that ends a part, so no two lists of names read alike.
        for byte in part.iter().chain(&[0xff]) {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    mix(state)
}

/// MurmurHash3's 64-bit finalizer.
pub(super) fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

/// Makes ids that no job has.
pub(super) struct Names<'a> {
    used: HashSet<&'a str>,
    /// Ids that were tried: no two of one plan come from the same number.
    tried: u64,
    made: HashSet<JobId>,
    now_ms: u64,
}

impl<'a> Names<'a> {
    pub(super) fn new(view: &ClusterView<'a>, now_ms: u64) -> Self {
        let of_jobs = view.jobs.iter().map(|job| job.placement.job.as_str());
        let used = of_jobs.chain(view.reserved.iter().map(|job| job.as_str())).collect();
        Self { used, tried: 0, made: HashSet::new(), now_ms }
    }

    /// The next free id for a job of `group`: `APP-PROCESS-TAIL`, cut to a DNS label.
    pub(super) fn next(&mut self, group: &Group) -> JobId {
        let mut head = format!("{}-{}", group.app, group.process);
        head.truncate(NAME_BYTES_MAX - TAIL_DIGITS - 1);
        let head = head.trim_end_matches('-');
        loop {
            self.tried += 1;
            let tail = hash([
                group.app.as_str().as_bytes(),
                group.process.as_str().as_bytes(),
                group.release.as_str().as_bytes(),
                &self.now_ms.to_be_bytes(),
                &self.tried.to_be_bytes(),
            ]);
            let id = job_id(head, tail);
            if !self.used.contains(id.as_str()) && self.made.insert(id.clone()) {
                return id;
            }
        }
    }
}

fn job_id(head: &str, mut tail: u64) -> JobId {
    let mut id = format!("{head}-");
    for _ in 0..TAIL_DIGITS {
        id.push(char::from(DIGITS[(tail % 32) as usize]));
        tail /= 32;
    }
    JobId::parse(&id).expect("a cut label, a hyphen and digits are a label")
}
