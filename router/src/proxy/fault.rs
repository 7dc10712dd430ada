//! What a failed attempt means: the reason, and whether another attempt is allowed.

use std::io;

use rustix::io::Errno;

use crate::h1::Reason;
use crate::h2::Unprocessed;
use crate::tls::InstanceTlsError;

/// Whether a failed attempt may be repeated (RFC 9110 §9.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// No: the instance may have acted on it, or the fault is not the instance's.
    Never,
    /// Yes, on another instance: nothing of the request has reached this one.
    Safe,
    /// Yes, on any instance: this one has said that it has not looked at the request.
    Refused,
    /// A kept connection ended before the first byte of the response, most likely because it
    /// had been idle: yes, on a new one, if the request may be sent twice.
    Reused,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) retry: Retry,
}

impl Failure {
    /// A failure that ends the request.
    pub(super) fn last(reason: Reason) -> Self {
        Self { reason, retry: Retry::Never }
    }

    /// Whether it speaks against the instance. A kept connection that has ended does not: it
    /// had most likely been idle for too long.
    pub(super) fn blames_instance(self) -> bool {
        !matches!(self.retry, Retry::Reused | Retry::Refused) && is_gateway_error(self.reason)
    }

    /// Whether another attempt takes from the retry budget.
    pub(super) fn costs_budget(self) -> bool {
        costs_budget(self.reason)
    }

    /// The connection to the instance did not open.
    pub(super) fn connect(error: &io::Error) -> Self {
        let reason = connect_fault(error);
        let retry = if reason == Reason::Overloaded { Retry::Never } else { Retry::Safe };
        Self { reason, retry }
    }

    /// The instance ended the connection before the response was there.
    pub(super) fn closed(error: Option<&io::Error>, reused: bool, begun: bool) -> Self {
        let reason = match error {
            Some(_) => Reason::UpstreamReset,
            None => Reason::UpstreamClosed,
        };
        let is_refused =
            error.and_then(io::Error::get_ref).is_some_and(|it| it.is::<Unprocessed>());
        let retry = match () {
            () if is_refused => Retry::Refused,
            () if reused && !begun => Retry::Reused,
            () => Retry::Never,
        };
        Self { reason, retry }
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self::last(reason)
    }
}

/// Whether an attempt ended this way because of its instance, before the head of an answer.
pub(crate) fn is_gateway_error(reason: Reason) -> bool {
    use Reason::*;
    matches!(
        reason,
        UpstreamConnectRefused
            | UpstreamConnectFailed
            | UpstreamConnectTimeout
            | UpstreamTlsFailed
            | UpstreamReset
            | UpstreamClosed
            | UpstreamTimeout
            | UpstreamBadResponse
            | UpstreamHeadTooLarge
            | UpstreamTooManyInterim
            | UpstreamBadLength
            | UpstreamBadUpgrade
    )
}

/// Whether an answer with this status is the instance's way to say that it does not work.
pub(super) fn is_gateway_status(status: u16) -> bool {
    matches!(status, 502..=504)
}

/// Whether another attempt after this one takes from the retry budget. A refused connection
/// has cost nobody anything, so going to another instance adds no load, and an instance that has
/// crashed must not use up the budget before the table knows.
pub(crate) fn costs_budget(reason: Reason) -> bool {
    reason != Reason::UpstreamConnectRefused
}

/// Why a connection did not open.
pub(crate) fn connect_fault(error: &io::Error) -> Reason {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    if error.get_ref().is_some_and(|cause| cause.is::<InstanceTlsError>()) {
        return Reason::UpstreamTlsFailed;
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::UpstreamConnectRefused,
        io::ErrorKind::TimedOut => Reason::UpstreamConnectTimeout,
        _ if Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno)) => {
            Reason::Overloaded
        }
        _ => Reason::UpstreamConnectFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_run_out_of_is_not_blamed_on_the_instance() {
        for (errno, reason, retry) in [
            (Errno::CONNREFUSED, Reason::UpstreamConnectRefused, Retry::Safe),
            (Errno::HOSTUNREACH, Reason::UpstreamConnectFailed, Retry::Safe),
            (Errno::TIMEDOUT, Reason::UpstreamConnectTimeout, Retry::Safe),
            (Errno::MFILE, Reason::Overloaded, Retry::Never),
            (Errno::ADDRNOTAVAIL, Reason::Overloaded, Retry::Never),
        ] {
            assert_eq!(Failure::connect(&errno.into()), Failure { reason, retry });
        }
    }

    #[test]
    fn only_a_kept_connection_without_an_answer_may_have_been_idle_too_long() {
        assert_eq!(Failure::closed(None, true, false).retry, Retry::Reused);
        assert_eq!(Failure::closed(None, true, true).retry, Retry::Never);
        assert_eq!(Failure::closed(None, false, false).retry, Retry::Never);
    }
}
