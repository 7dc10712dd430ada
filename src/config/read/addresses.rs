//! The range of virtual addresses, which nothing else of the file may use.

use std::net::IpAddr;
use std::ops::Range;

use portolan_agent::register::Declared;
use portolan_discovery::model::VirtualRange;
use portolan_router::VIRTUAL_LISTENER;
use toml::Spanned;

use super::Reader;
use crate::config::error::ConfigError;
use crate::config::{AdminConfig, DnsConfig, Listener, NodeConfig};

impl Reader<'_> {
    /// The range that services are given addresses of.
    pub(super) fn virtual_addresses(
        &self,
        wanted: Option<&Spanned<String>>,
        listeners: &[(Listener, Range<usize>)],
        node: &NodeConfig,
        admin: &AdminConfig,
        dns: Option<&DnsConfig>,
    ) -> Result<Option<VirtualRange>, ConfigError> {
        let Some(wanted) = wanted else { return Ok(None) };
        let bad = |what: String, hint: &str| self.source.at(wanted.span(), what, hint.to_owned());
        let range = VirtualRange::parse(wanted.get_ref()).map_err(|error| {
            let hint = "expected a range of IPv4 or IPv6 of which nothing is used, such as \
                        \"127.64.0.0/16\" or \"fd00:7::/64\"";
            bad(format!("router.virtual_addresses: {error}"), hint)
        })?;
        let mut used: Vec<(IpAddr, String)> = vec![
            (node.address, "node.address".to_owned()),
            (admin.bind.ip(), "admin.bind".to_owned()),
        ];
        if let Some(dns) = dns {
            used.extend(dns.bind.iter().map(|bind| (bind.ip(), "dns.bind".to_owned())));
            let proxy = dns.proxy_addresses.iter();
            used.extend(proxy.map(|address| (*address, "dns.proxy_addresses".to_owned())));
        }
        let named = listeners.iter().map(|(listener, _)| listener);
        used.extend(named.map(|l| (l.bind.ip(), format!("listener \"{}\"", l.name))));
        if let Some((address, whose)) = used.iter().find(|(address, _)| range.covers(*address)) {
            let what =
                format!("router.virtual_addresses {range} has {address}, which {whose} uses");
            return Err(bad(what, "choose a range of which nothing is used"));
        }
        if listeners.iter().any(|(listener, _)| listener.name.as_str() == VIRTUAL_LISTENER) {
            let what = format!("listener \"{VIRTUAL_LISTENER}\" has the name of all virtual ones");
            return Err(bad(what, "give the listener another name"));
        }
        Ok(Some(range))
    }

    /// Whether the services can have the addresses that they ask for.
    pub(super) fn fit_addresses(
        &self,
        services: &[(Declared, Range<usize>)],
        range: Option<&VirtualRange>,
    ) -> Result<(), ConfigError> {
        for (Declared { service, instances, .. }, place) in services {
            let name = &service.name;
            let bad = |what: String, hint: &str| self.source.at(place.clone(), what, hint);
            let Some(range) = range else {
                if service.virtual_port.is_none() {
                    continue;
                }
                let what =
                    format!("service \"{name}\" has a virtual_port, and there are no addresses");
                let hint = "set router.virtual_addresses to the range that services are given \
                            addresses of, such as \"127.64.0.0/16\"";
                return Err(bad(what, hint));
            };
            let inside =
                |one: &&portolan_agent::register::DeclaredInstance| range.covers(one.addr.ip());
            if let Some(instance) = instances.iter().find(inside) {
                let addr = instance.addr;
                let what = format!(
                    "service \"{name}\" has an instance at {addr}, which is of \
                     router.virtual_addresses {range}"
                );
                return Err(bad(what, "give the instance another address, or change the range"));
            }
        }
        Ok(())
    }
}
