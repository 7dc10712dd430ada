//! Ports that TCP routes can be given: a listener for each, bound before there is a route, so that
//! no route can fail for its port.

use std::net::SocketAddr;
use std::ops::Range;

use portolan_discovery::model::{PortRange, Protocol};
use portolan_router::ProxyProtocol;
use toml::Spanned;

use super::Reader;
use crate::config::error::ConfigError;
use crate::config::file::{AppFile, RouteFile};
use crate::config::value::PortsAt;
use crate::config::{Listener, TCP_PORTS_MAX, port_listener};

impl Reader<'_> {
    /// The listeners of these ports, beside those that the file names.
    pub(super) fn tcp_ports(
        &self,
        wanted: Option<&Spanned<PortsAt>>,
        listeners: &[(Listener, Range<usize>)],
        of_jobs: PortRange,
        apps: &[Spanned<AppFile>],
    ) -> Result<Vec<(Listener, Range<usize>)>, ConfigError> {
        let Some(wanted) = wanted else { return Ok(Vec::new()) };
        let PortsAt { ip, ports } = *wanted.get_ref();
        let bad = |what: String, hint: &str| self.source.at(wanted.span(), what, hint.to_owned());
        let count = ports.ports().count();
        if count > TCP_PORTS_MAX {
            let what = format!("tcp_ports are {count} ports, more than {TCP_PORTS_MAX}");
            return Err(bad(what, "each has a socket for each worker: name fewer"));
        }
        if ports.first <= of_jobs.last && of_jobs.first <= ports.last {
            let PortRange { first, last } = of_jobs;
            let what = format!("jobs are given the ports {first}-{last}, some of which are these");
            return Err(bad(what, "change tcp_ports or agent.ports"));
        }
        let processes = apps.iter().flat_map(|app| app.get_ref().processes.iter());
        let fixed = |port: &u16| (ports.first..=ports.last).contains(port);
        if let Some((name, port)) =
            processes.filter_map(|(name, process)| Some((name, process.port.filter(fixed)?))).next()
        {
            let what = format!("process {name} has the port {port}, which is one of these");
            return Err(bad(what, "give it another port, or change tcp_ports"));
        }
        let named = |port: &u16| listeners.iter().any(|(l, _)| l.name == port_listener(*port));
        if let Some(port) = ports.ports().find(named) {
            let what = format!("listener \"port-{port}\" has the name of one of these ports");
            return Err(bad(what, "give the listener another name"));
        }
        let listener = |port| Listener {
            name: port_listener(port),
            bind: SocketAddr::new(ip, port),
            protocol: Protocol::Tcp,
            trusted: Vec::new(),
            via: true,
            proxy_protocol: ProxyProtocol::Off,
            tls: None,
            redirect_https: None,
            http2: false,
        };
        Ok(ports.ports().map(|port| (listener(port), wanted.span())).collect())
    }

    /// Routes that name a port get the listener of it.
    pub(super) fn on_ports(
        &self,
        mut files: Vec<Spanned<RouteFile>>,
        ports: Option<PortRange>,
    ) -> Result<Vec<Spanned<RouteFile>>, ConfigError> {
        for file in &mut files {
            let file = file.get_mut();
            let Some(port) = &file.port else { continue };
            let (place, port) = (port.span(), *port.get_ref());
            let (what, hint) = match ports {
                _ if file.listener.is_some() => {
                    ("the route names a port and a listener".to_owned(), "remove one of them")
                }
                None => {
                    let hint = "set router.tcp_ports to the ports that routes can be given";
                    (format!("there is no port {port} to be given"), hint)
                }
                Some(PortRange { first, last }) if !(first..=last).contains(&port) => {
                    let what = format!("port {port} is not one of {first}-{last}");
                    (what, "choose one of router.tcp_ports")
                }
                Some(_) => {
                    file.listener = Some(Spanned::new(place, port_listener(port)));
                    continue;
                }
            };
            return Err(self.source.at(place, what, hint));
        }
        Ok(files)
    }
}
