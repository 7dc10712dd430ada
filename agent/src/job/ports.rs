//! Which ports the jobs of a node have.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use portolan_discovery::model::{JobId, PortRange};

/// Why a job gets no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    /// Another job of this node has it.
    #[error("port {port} is used by job {job}")]
    Used { port: u16, job: JobId },
    /// Some other program listens on it.
    #[error("port {port} is taken by another program")]
    Taken { port: u16 },
    /// Neither is left.
    #[error("no port of {}-{} is free", .range.first, .range.last)]
    None { range: PortRange },
}

/// The ports that are given out.
#[derive(Debug)]
pub(crate) struct Ports {
    range: PortRange,
    held: BTreeMap<u16, JobId>,
    /// Where the search begins. Going round uses a port again as late as possible: a router may
    /// know its former owner for a moment longer.
    next: u16,
}

impl Ports {
    pub(crate) fn new(range: PortRange) -> Self {
        Self { range, held: BTreeMap::new(), next: range.first }
    }

    /// Notes the port of a job that runs already.
    pub(crate) fn hold(&mut self, job: &JobId, port: u16) {
        self.held.insert(port, job.clone());
        if (self.range.first..=self.range.last).contains(&port) && port >= self.next {
            self.next = if port == self.range.last { self.range.first } else { port + 1 };
        }
    }

    /// Lets go of all that the job has.
    pub(crate) fn release(&mut self, job: &JobId) {
        self.held.retain(|_, holder| holder != job);
    }

    /// Gives a job its `fixed` port, or `former` if it may keep one, or the next of the range
    /// that is free as far as `is_free` knows. What it had before is let go.
    pub(crate) fn choose(
        &mut self,
        job: &JobId,
        fixed: Option<u16>,
        former: Option<u16>,
        is_free: impl Fn(u16) -> bool,
    ) -> Result<u16, PortError> {
        self.release(job);
        let port = match fixed {
            Some(port) => {
                if let Some(job) = self.held.get(&port) {
                    return Err(PortError::Used { port, job: job.clone() });
                }
                if !is_free(port) {
                    return Err(PortError::Taken { port });
                }
                port
            }
            None => {
                let PortRange { first, last } = self.range;
                let round = (self.next..=last).chain(first..self.next);
                let former = former.filter(|port| (first..=last).contains(port));
                former
                    .into_iter()
                    .chain(round)
                    .find(|port| !self.held.contains_key(port) && is_free(*port))
                    .ok_or(PortError::None { range: self.range })?
            }
        };
        self.held.insert(port, job.clone());
        if fixed.is_none() && former != Some(port) {
            self.next = if port == self.range.last { self.range.first } else { port + 1 };
        }
        Ok(port)
    }
}

/// Whether nobody listens there. A job may bind all addresses, so a port of the range must be
/// free on all of them; a `fixed` one only where it was asked for.
pub(crate) fn is_free(addr: IpAddr, port: u16, is_fixed: bool) -> bool {
    let addr = match addr {
        addr if is_fixed => addr,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    TcpListener::bind(SocketAddr::new(addr, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> JobId {
        JobId::parse(name).unwrap()
    }

    const RANGE: PortRange = PortRange { first: 10, last: 13 };

    #[test]
    fn ports_are_given_out_in_a_round_and_used_again_as_late_as_possible() {
        let mut ports = Ports::new(RANGE);
        let mut next = |name: &str| ports.choose(&job(name), None, None, |port| port != 11);
        assert_eq!(next("a"), Ok(10));
        assert_eq!(next("b"), Ok(12));
        assert_eq!(next("a"), Ok(13));
        assert_eq!(next("c"), Ok(10));
        assert_eq!(next("d"), Err(PortError::None { range: RANGE }));
        assert_eq!(next("c"), Ok(10));
    }

    #[test]
    fn a_job_may_keep_the_port_it_had() {
        let mut ports = Ports::new(RANGE);
        ports.hold(&job("a"), 11);
        assert_eq!(ports.choose(&job("b"), None, None, |_| true), Ok(12));
        assert_eq!(ports.choose(&job("a"), None, Some(11), |_| true), Ok(11));
        assert_eq!(ports.choose(&job("c"), None, Some(11), |_| true), Ok(13));
        assert_eq!(ports.choose(&job("a"), None, Some(11), |port| port != 11), Ok(10));
    }

    #[test]
    fn a_fixed_port_is_that_one_or_none() {
        let mut ports = Ports::new(RANGE);
        assert_eq!(ports.choose(&job("a"), Some(80), None, |_| true), Ok(80));
        let used = PortError::Used { port: 80, job: job("a") };
        assert_eq!(ports.choose(&job("b"), Some(80), None, |_| true), Err(used));
        let taken = PortError::Taken { port: 81 };
        assert_eq!(ports.choose(&job("b"), Some(81), None, |_| false), Err(taken));
        ports.release(&job("a"));
        assert_eq!(ports.choose(&job("b"), Some(80), None, |_| true), Ok(80));
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_free() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = stranger.local_addr().unwrap().port();
        let (one, two): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        assert!(!is_free(one, port, true));
        assert!(!is_free(two, port, false));
        assert!(is_free(two, port, true));
        drop(stranger);
        assert!(is_free(one, port, false));
    }
}
