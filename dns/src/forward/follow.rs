//! Which upstreams there are: from the configuration, or from `resolv.conf` as it changes.

use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::Forwarder;
use crate::config::Upstreams;
use crate::resolv::{FILE_BYTES_MAX, Resolv};

/// How often the file is looked at. It is small, and who changes a network waits longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The addresses this resolver listens on. To ask them would be to ask itself, for ever.
#[derive(Debug, Clone)]
pub(crate) struct Own(pub(crate) Vec<SocketAddr>);

impl Own {
    fn has(&self, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        self.0.iter().filter(|own| own.port() == addr.port()).any(|own| {
            own.ip().to_canonical() == ip
                || ip.is_unspecified()
                // A socket can be bound to this machine's own addresses only.
                || (own.ip().is_unspecified() && UdpSocket::bind((ip, 0)).is_ok())
        })
    }

    /// `addrs` without our own.
    fn strike_from(&self, addrs: &[SocketAddr]) -> Vec<SocketAddr> {
        let (ours, others): (Vec<_>, Vec<_>) = addrs.iter().partition(|addr| self.has(**addr));
        if !ours.is_empty() {
            tracing::warn!(?ours, "these upstreams are this resolver itself: not used");
        }
        others
    }
}

/// The upstreams at the start. A file that cannot be read is no reason not to serve the zone.
pub(crate) fn read_upstreams(upstreams: &Upstreams, own: &Own) -> Vec<SocketAddr> {
    let listed = match upstreams {
        Upstreams::Static(addrs) => own.strike_from(addrs),
        Upstreams::ResolvConf(path) => match read(path) {
            Ok(text) => listed(path, &text, own),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the upstreams");
                Vec::new()
            }
        },
    };
    if listed.is_empty() {
        tracing::warn!("there is no upstream: only the cluster zone is answered");
    }
    listed
}

/// Gives `forwarder` the upstreams of the file at `path` whenever they change. A file that is
/// gone, or lists none, leaves the last ones in use: it may be half written.
pub(crate) async fn follow(path: PathBuf, own: Own, forwarder: Rc<Forwarder>) {
    let mut last: Option<Vec<u8>> = None;
    loop {
        let look = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || read(&path)).await
        };
        let text = look.ok().and_then(Result::ok);
        if text != last {
            match text.as_deref().map(|text| listed(&path, text, &own)) {
                Some(upstreams) if !upstreams.is_empty() => {
                    if last.is_some() {
                        tracing::info!(?upstreams, "the upstreams have changed");
                    }
                    forwarder.use_upstreams(&upstreams);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "lists no upstream: the last ones stay")
                }
            }
            last = text;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn listed(path: &Path, text: &[u8], own: &Own) -> Vec<SocketAddr> {
    let resolv = Resolv::parse(text);
    if !resolv.unread.is_empty() {
        tracing::warn!(path = %path.display(), passed_over = ?resolv.unread, "nameserver lines");
    }
    own.strike_from(&resolv.upstreams)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_addresses_are_struck_from_the_list() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (own, asked, expected) in [
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("127.0.0.1:53", "[::ffff:127.0.0.1]:53", true),
            ("127.0.0.1:53", "127.0.0.1:54", false),
            ("127.0.0.1:53", "127.0.0.53:53", false),
            ("127.0.0.1:53", "0.0.0.0:53", true),
            ("0.0.0.0:53", "127.0.0.53:53", true),
            ("0.0.0.0:53", "192.0.2.1:53", false),
        ] {
            assert_eq!(Own(vec![addr(own)]).has(addr(asked)), expected, "{own} {asked}");
        }
    }
}
