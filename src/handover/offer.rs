//! Sockets that were bound before this process began, by an earlier process or by the service
//! manager, until somebody has a use for them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{SocketType, getsockname, sockopt};

use super::activation;
use super::message::{Group, Kind};

/// What one address is offered with.
#[derive(Debug)]
struct Offered {
    use_of: Use,
    name: Option<String>,
    bind: SocketAddr,
    sockets: Vec<OwnedFd>,
    is_taken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// As before, in the group of this number.
    Of(Kind, u32),
    /// Whatever goes by this transport.
    Any(SocketType),
}

impl Use {
    fn fits(self, kind: Kind) -> bool {
        match self {
            Self::Of(known, _) => known == kind,
            Self::Any(SocketType::DGRAM) => kind == Kind::DnsUdp,
            Self::Any(_) => kind != Kind::DnsUdp,
        }
    }
}

/// Sockets that were bound before.
#[derive(Debug, Default)]
pub struct Offer {
    offered: Vec<Offered>,
}

impl Offer {
    /// The sockets that the service manager passes. Call it once, before anything is opened.
    pub fn activated() -> Self {
        let mut offer = Self::default();
        for socket in activation::passed() {
            match facts(&socket) {
                Some((bind, transport)) => offer.add(Use::Any(transport), None, bind, socket),
                None => tracing::warn!("a passed file is no socket that listens; it is closed"),
            }
        }
        offer
    }

    /// Takes in sockets of an earlier process.
    pub fn take_in(&mut self, group: &Group, sockets: Vec<OwnedFd>) {
        for socket in sockets {
            self.add(Use::Of(group.kind, group.id), group.name.clone(), group.bind, socket);
        }
    }

    fn add(&mut self, use_of: Use, name: Option<String>, bind: SocketAddr, socket: OwnedFd) {
        let known = self.offered.iter_mut().find(|offered| {
            offered.use_of == use_of && offered.bind == bind && offered.name == name
        });
        match known {
            Some(offered) => offered.sockets.push(socket),
            None => self.offered.push(Offered {
                use_of,
                name,
                bind,
                sockets: vec![socket],
                is_taken: false,
            }),
        }
    }

    /// The sockets for `bind`. Of those with any port, the one of the same name.
    pub fn take<S: From<OwnedFd>>(
        &mut self,
        kind: Kind,
        name: Option<&str>,
        bind: SocketAddr,
    ) -> Vec<S> {
        let fits = |offered: &&mut Offered| {
            !offered.is_taken
                && offered.use_of.fits(kind)
                && offered.bind == bind
                && (bind.port() != 0 || offered.name.as_deref() == name)
        };
        let Some(offered) = self.offered.iter_mut().find(fits) else { return Vec::new() };
        offered.is_taken = true;
        offered.sockets.drain(..).map(S::from).collect()
    }

    /// All sockets of listeners of this name, by address.
    pub fn take_named<S: From<OwnedFd>>(
        &mut self,
        kind: Kind,
        name: &str,
    ) -> Vec<(SocketAddr, Vec<S>)> {
        let fits = |offered: &&mut Offered| {
            let is_of = matches!(offered.use_of, Use::Of(known, _) if known == kind);
            !offered.is_taken && is_of && offered.name.as_deref() == Some(name)
        };
        let take = |offered: &mut Offered| {
            offered.is_taken = true;
            (offered.bind, offered.sockets.drain(..).map(S::from).collect())
        };
        self.offered.iter_mut().filter(fits).map(take).collect()
    }

    /// The groups of an earlier process that were taken.
    pub fn taken(&self) -> Vec<u32> {
        let taken = self.offered.iter().filter(|offered| offered.is_taken);
        taken
            .filter_map(|offered| match offered.use_of {
                Use::Of(_, id) => Some(id),
                Use::Any(_) => None,
            })
            .collect()
    }

    /// The addresses that nobody had a use for. Their sockets are closed with this.
    pub fn left(&self) -> Vec<SocketAddr> {
        self.offered.iter().filter(|offered| !offered.is_taken).map(|o| o.bind).collect()
    }
}

/// Where a passed socket listens, and by what.
fn facts(socket: &OwnedFd) -> Option<(SocketAddr, SocketType)> {
    let transport = sockopt::socket_type(socket).ok()?;
    let listens = match transport {
        SocketType::STREAM => sockopt::socket_acceptconn(socket).ok()?,
        SocketType::DGRAM => true,
        _ => false,
    };
    let addr = getsockname(socket).ok()?.try_into().ok()?;
    listens.then_some((addr, transport))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn tcp() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn group(id: u32, kind: Kind, name: Option<&str>, bind: &str) -> Group {
        Group { id, kind, name: name.map(str::to_owned), bind: bind.parse().unwrap() }
    }

    #[test]
    fn sockets_go_to_their_address_and_those_of_any_port_to_their_name() {
        let mut offer = Offer::default();
        for (id, kind, name, bind) in [
            (1, Kind::Router, Some("a"), "127.0.0.1:80"),
            (2, Kind::Router, Some("b"), "127.0.0.1:0"),
            (3, Kind::Router, Some("c"), "127.0.0.1:0"),
            (4, Kind::Admin, None, "127.0.0.1:70"),
        ] {
            let group = group(id, kind, name, bind);
            offer.take_in(&group, vec![tcp()]);
            offer.take_in(&group, vec![tcp()]);
        }
        let mut take = |kind, name: Option<&str>, bind: &str| {
            offer.take::<TcpListener>(kind, name, bind.parse().unwrap()).len()
        };
        assert_eq!(take(Kind::Router, Some("other-name"), "127.0.0.1:80"), 2);
        assert_eq!(take(Kind::Router, Some("a"), "127.0.0.1:80"), 0, "only once");
        assert_eq!(take(Kind::Router, Some("c"), "127.0.0.1:0"), 2);
        assert_eq!(take(Kind::Router, Some("d"), "127.0.0.1:0"), 0);
        assert_eq!(take(Kind::Router, Some("x"), "127.0.0.1:70"), 0, "not its use");
        assert_eq!(offer.taken(), [1, 3]);
        assert_eq!(offer.left().len(), 2);
    }

    #[test]
    fn all_of_one_name_are_taken_wherever_they_are() {
        let mut offer = Offer::default();
        for (id, name, bind) in [
            (1, "virtual", "127.64.0.7:80"),
            (2, "web", "127.0.0.1:80"),
            (3, "virtual", "127.64.0.8:80"),
        ] {
            offer.take_in(&group(id, Kind::Router, Some(name), bind), vec![tcp(), tcp()]);
        }
        let taken = offer.take_named::<TcpListener>(Kind::Router, "virtual");
        let taken: Vec<_> = taken.iter().map(|(a, all)| (a.to_string(), all.len())).collect();
        assert_eq!(taken, [("127.64.0.7:80".to_owned(), 2), ("127.64.0.8:80".to_owned(), 2)]);
        assert_eq!(offer.taken(), [1, 3]);
        assert!(offer.take_named::<TcpListener>(Kind::Router, "virtual").is_empty());
        assert!(offer.take_named::<TcpListener>(Kind::Admin, "web").is_empty());
    }

    #[test]
    fn passed_sockets_are_known_by_what_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = listener.local_addr().unwrap();
        assert_eq!(facts(&listener.into()), Some((bind, SocketType::STREAM)));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let bind = socket.local_addr().unwrap();
        assert_eq!(facts(&socket.into()), Some((bind, SocketType::DGRAM)));
        assert_eq!(facts(&std::fs::File::open("/dev/null").unwrap().into()), None);
        assert!(Use::Any(SocketType::DGRAM).fits(Kind::DnsUdp));
        assert!(!Use::Any(SocketType::DGRAM).fits(Kind::Admin));
        assert!(Use::Any(SocketType::STREAM).fits(Kind::Admin));
    }
}
