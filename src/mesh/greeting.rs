//! What the user reads at the start and at the end: where everything is and what to try.

use std::fmt::Write;
use std::path::Path;

use portolan_discovery::model::{HostPattern, Protocol, Rule};

use super::Mesh;

impl Mesh {
    /// Where everything listens and what to try.
    pub fn greeting(&self, file: &Path) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "portolan {} serves {}", env!("CARGO_PKG_VERSION"), file.display());
        for (name, addr) in self.router.local_addrs() {
            let _ = writeln!(text, "  listener {name:<8} {addr}");
        }
        let dns = self.dns.as_ref().map_or_else(Vec::new, portolan_dns::Bound::local_addrs);
        for addr in &dns {
            let _ = writeln!(text, "  dns      {:<8} {addr}", "");
        }
        if let Ok(admin) = self.admin.local_addr() {
            let _ = writeln!(text, "  admin    {:<8} {admin}", "");
        }
        let tries = self.tries(&dns);
        if !tries.is_empty() {
            let _ = writeln!(text, "\ntry in another terminal:");
            for line in tries {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }

    fn tries(&self, dns: &[std::net::SocketAddr]) -> Vec<String> {
        let mut tries = Vec::new();
        let http = self.config.listeners.iter().find(|l| l.protocol == Protocol::Http);
        let addr = http.and_then(|listener| {
            self.router.local_addrs().into_iter().find(|(name, _)| *name == listener.name)
        });
        if let Some((_, addr)) = addr {
            for route in self.config.routes.iter().take(3) {
                if let Rule::Http(rule) = &route.rule {
                    let host = match &rule.host {
                        HostPattern::Exact(host) => host.as_str().to_owned(),
                        HostPattern::Wildcard(host) => format!("any.{}", host.as_str()),
                        HostPattern::Any => "any.test".to_owned(),
                    };
                    tries.push(format!("curl -H 'Host: {host}' http://{addr}{}", rule.path.path()));
                }
            }
        }
        if let (Some(addr), Some(set)) = (dns.first(), &self.config.dns) {
            let service = self.config.apps.iter().flat_map(|app| app.processes.values());
            if let Some(service) = service.filter_map(|(job, _)| job.service.as_ref()).next() {
                let (ip, port, zone) = (addr.ip(), addr.port(), &set.zone);
                tries.push(format!("dig @{ip} -p {port} {service}.{zone} A"));
                tries.push(format!("dig @{ip} -p {port} _{service}._tcp.{zone} SRV"));
            }
        }
        tries.push("portolan status".to_owned());
        if let Some(app) = self.config.apps.first() {
            tries.push(format!("portolan ps {}", app.name));
        }
        tries
    }
}

/// What is left running, and how to end it.
pub(super) fn farewell(jobs: &Path) -> String {
    match portolan_agent::job::running(jobs) {
        0 => "portolan has ended\n".to_owned(),
        count => format!(
            "portolan has ended; {count} jobs go on, and the next `portolan up` adopts them.\nTo end them: portolan stop FILE\n"
        ),
    }
}
