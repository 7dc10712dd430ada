//! What a configuration needs of others: are the resolvers it names there, can its sockets be
//! bound by this user on this machine.

use std::time::Duration;

use crate::config::Config;

/// A resolver that needs longer would slow every container down.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks everything that the configuration names; what is wrong, in words.
pub fn probe(config: &Config) -> Vec<String> {
    let mut troubles = Vec::new();
    for upstream in config.dns.iter().flat_map(|dns| dns.upstreams.iter().flatten()) {
        if let Err(error) = portolan_dns::probe_upstream(*upstream, UPSTREAM_TIMEOUT) {
            troubles.push(format!(
                "dns.upstreams: {upstream} does not answer: {error}; correct it, or check with --offline"
            ));
        }
    }
    troubles
}
