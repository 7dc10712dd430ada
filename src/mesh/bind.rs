//! From the configuration to bound sockets and open files. Whatever fails here fails before
//! anything runs, and what was bound is let go.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_agent::job::{self, ShimProgram};
use portolan_agent::metrics::Metrics as AgentMetrics;
use portolan_agent::{Agent, AgentConfig};
use portolan_discovery::model::key::DATA;
use portolan_discovery::snapshot::{SavedFile, Snapshot};
use portolan_discovery::store::embedded::OpenError;
use portolan_dns::{Dns, Upstreams, ZoneConfig};
use portolan_router::{ListenerConfig, Router, VIRTUAL_LISTENER, fresh_ticket_keys};

use super::certify::Certifier;
use super::tickets::TicketKeeper;
use super::{Mesh, jobs_dir, open};
use crate::api::{Token, TokenError};
use crate::certificates::{CertificateFilesError, Follower, judge};
use crate::clock;
use crate::config::{Config, Listener};
use crate::handover::{Kind, Offer};
use crate::live::{Live, OpenedStore};

/// How often it is tried to take what another process has.
const HELD_POLL: Duration = Duration::from_millis(10);
/// How long the first table may wait for an open store; after that the saved one is the first.
const FIRST_SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket of the router.
    #[error(transparent)]
    Router(#[from] portolan_router::BindError),
    /// A socket of the resolver.
    #[error(transparent)]
    Dns(#[from] portolan_dns::BindError),
    /// The admin listener.
    #[error("cannot bind admin.bind {addr}: {source}")]
    Admin {
        /// Its address.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateFilesError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The data folder.
    #[error("cannot use node.data_dir {path}: {source}")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The token.
    #[error("admin.token_file {path}")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenError,
    },
    /// A metric of the mesh is registered already.
    #[error("cannot register the mesh's metrics: {0}")]
    Metrics(#[source] prometheus::Error),
    /// A thread of the router.
    #[error("cannot start a data worker: {0}")]
    Thread(#[source] io::Error),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] portolan_agent::BindError),
    /// The path of this program, which each job's supervisor is started from.
    #[error("cannot find this program's own file: {0}")]
    Program(#[source] io::Error),
    /// The process that this one was to take over from.
    #[error("cannot take over: {0}")]
    TakeOver(String),
}

impl StartError {
    /// Whether another process has what this one needs.
    fn is_held_elsewhere(&self) -> bool {
        use portolan_agent::BindError as Agent;
        matches!(
            self,
            Self::Store(OpenError::Locked { .. })
                | Self::Agent(Agent::Jobs(job::BindError::Busy { .. }))
        )
    }
}

/// What can be had while another process still has the store and the jobs.
pub(super) struct Half {
    config: Config,
    new_store: bool,
    saved_file: SavedFile,
    router: portolan_router::Bound,
    dns: Option<portolan_dns::Bound>,
    admin: TcpListener,
    token: Option<Token>,
    certifier: Certifier,
    ticket_keeper: TicketKeeper,
    registry: prometheus::Registry,
}

impl Mesh {
    /// Binds every socket and opens every file, or fails and leaves nothing behind. Goes on with
    /// the sockets that are offered for its addresses.
    pub async fn bind(
        config: Config,
        new_store: bool,
        mut offer: Offer,
    ) -> Result<Self, StartError> {
        let half = Half::bind(config, new_store, &mut offer)?;
        for addr in offer.left() {
            tracing::warn!(%addr, "a socket was passed that the configuration does not name");
        }
        half.complete(Duration::ZERO).await
    }

    /// Brings the saved snapshot to what the store has, if that is open. The saved one may lack
    /// the last second before a crash: traffic would go where it must not any more, or find nobody.
    async fn catch_up(&self) {
        let Ok(store) = self.store.now() else { return };
        match tokio::time::timeout(FIRST_SNAPSHOT_TIMEOUT, store.snapshot(DATA)).await {
            Ok(Ok((kvs, revision))) => {
                // What is passed over is told by the follower, which reads all of it again.
                let (snapshot, _) = self.live.snapshot().caught_up_judged(kvs, revision, &judge);
                self.live.set_snapshot(Arc::new(snapshot));
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the saved table is served until the store answers")
            }
            Err(_) => tracing::warn!("the saved table is served until the store answers"),
        }
    }
}

impl Half {
    /// Binds every socket and reads every file.
    pub(super) fn bind(
        config: Config,
        new_store: bool,
        offer: &mut Offer,
    ) -> Result<Self, StartError> {
        let data_dir = config.node.data_dir.clone();
        private_folder(&data_dir)
            .and_then(|()| private_folder(&jobs_dir(&data_dir)))
            .map_err(|source| StartError::DataDir { path: data_dir.clone(), source })?;
        let token = match &config.admin.token_file {
            Some(path) => Some(
                Token::load(path)
                    .map_err(|source| StartError::Token { path: path.clone(), source })?,
            ),
            None => None,
        };
        let registry = prometheus::Registry::new();
        let router = Router::bind_with(router_config(&config), &registry, |listener| {
            offer.take(Kind::Router, Some(listener.name.as_str()), listener.bind)
        })?;
        if config.virtual_addresses.is_some() {
            for (addr, sockets) in offer.take_named(Kind::Router, VIRTUAL_LISTENER) {
                router.inherit_virtual(addr, sockets);
            }
        }
        let follower = Follower::start(config.certificates.clone())?;
        let certifier = Certifier::new(follower, router.certificates().clone(), &registry)
            .map_err(StartError::Metrics)?;
        let own = fresh_ticket_keys(clock::unix_ms()).map_err(portolan_router::BindError::from)?;
        let ticket_keeper = TicketKeeper::new(router.tickets().clone(), own, &registry)
            .map_err(StartError::Metrics)?;
        let dns = match dns_config(&config) {
            Some(dns) => Some(Dns::bind_with(dns, &registry, |addr| portolan_dns::Inherited {
                udp: offer.take(Kind::DnsUdp, None, addr),
                tcp: offer.take(Kind::DnsTcp, None, addr).pop(),
            })?),
            None => None,
        };
        let inherited = offer.take(Kind::Admin, None, config.admin.bind).pop();
        let admin = bind_admin(config.admin.bind, inherited)?;
        let saved_file = SavedFile::at(data_dir.join("table.saved"));
        Ok(Self {
            config,
            new_store,
            saved_file,
            router,
            dns,
            admin,
            token,
            certifier,
            ticket_keeper,
            registry,
        })
    }

    /// Takes the store and the jobs, which one process can have at a time; waits for as long as
    /// `patience` when another one has them, and blocks meanwhile. The first table is that of the
    /// store.
    pub(super) async fn complete(self, patience: Duration) -> Result<Mesh, StartError> {
        let mesh = self.take(patience)?;
        mesh.catch_up().await;
        Ok(mesh)
    }

    fn take(self, patience: Duration) -> Result<Mesh, StartError> {
        let Self { config, new_store, saved_file, router, dns, admin, token, registry, .. } = self;
        let until = clock::now() + patience;
        let (opener, store) = until_free(until, || {
            Ok(open::open(&config.store_path, saved_file.exists(), new_store)?)
        })?;
        let live = Arc::new(Live::new(saved(&saved_file, new_store), clock::now()));
        let agent_metrics =
            AgentMetrics::register(&registry).map_err(portolan_agent::BindError::Metrics)?;
        let agent = until_free(until, || bind_agent(&config, &store, &live, &agent_metrics))?;
        let admin_error = |source| StartError::Admin { addr: config.admin.bind, source };
        Ok(Mesh {
            saved_file,
            opener: Arc::new(opener),
            store,
            live,
            router,
            dns,
            agent,
            agent_metrics,
            admin: tokio::net::TcpListener::from_std(admin).map_err(admin_error)?,
            token,
            certifier: self.certifier,
            ticket_keeper: self.ticket_keeper,
            registry,
            config,
            origin: None,
        })
    }
}

/// Tries again until `until` while another process has what is to be taken.
fn until_free<T>(
    until: Instant,
    mut take: impl FnMut() -> Result<T, StartError>,
) -> Result<T, StartError> {
    loop {
        match take() {
            Err(error) if error.is_held_elsewhere() && clock::now() < until => {
                std::thread::sleep(HELD_POLL);
            }
            taken => return taken,
        }
    }
}

/// The agent of this node, over a store that may not be open yet.
pub(super) fn bind_agent(
    config: &Config,
    store: &OpenedStore,
    live: &Live,
    metrics: &AgentMetrics,
) -> Result<Agent, StartError> {
    let late = Arc::new(open::Late::new(store.clone()));
    Ok(Agent::bind_with(agent_config(config, live)?, late, metrics.clone())?)
}

/// A folder that only its owner can look into: jobs' logs and environment lie in it. One that is
/// there already may serve others too, so its mode is left alone.
fn private_folder(path: &Path) -> io::Result<()> {
    const OWNER_ONLY: u32 = 0o700;
    const OTHERS: u32 = 0o007;
    fs::DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & OTHERS != 0 {
        tracing::warn!(path = %path.display(), "others can look into this folder: chmod 0700 it");
    }
    Ok(())
}

fn bind_admin(addr: SocketAddr, inherited: Option<TcpListener>) -> Result<TcpListener, StartError> {
    let bind = || {
        let listener = inherited.map_or_else(|| TcpListener::bind(addr), Ok)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| StartError::Admin { addr, source })
}

/// The snapshot that was served last, or an empty one.
fn saved(file: &SavedFile, new_store: bool) -> Snapshot {
    if new_store || !file.exists() {
        return Snapshot::default();
    }
    match file.load() {
        Ok(saved) => {
            for record in &saved.rejected {
                tracing::warn!(%record, "in the saved table");
            }
            if saved.is_older {
                tracing::warn!("the newest saved table is damaged; the one before it is served");
            }
            tracing::info!(revision = %saved.snapshot.revision, "there is a saved table to begin with");
            saved.snapshot
        }
        Err(error) => {
            tracing::error!(%error, "there is no saved table to begin with");
            Snapshot::default()
        }
    }
}

fn router_config(config: &Config) -> portolan_router::Config {
    let listener = |listener: &Listener| ListenerConfig {
        name: listener.name.clone(),
        bind: listener.bind,
        protocol: listener.protocol,
        trusted_peers: listener.trusted.clone(),
        via: listener.via,
        proxy_protocol: listener.proxy_protocol,
        tls: listener.tls.clone(),
        redirect_https: listener.redirect_https,
        http2: listener.http2,
    };
    let listeners = config.listeners.iter().map(listener).collect();
    let mut router = portolan_router::Config::new(listeners);
    let set = &config.router;
    let (timeouts, limits) = (&mut router.timeouts, &mut router.limits);
    for (to, from) in [
        (&mut timeouts.connect, set.connect_timeout),
        (&mut timeouts.client_header, set.header_timeout),
        (&mut timeouts.client_body, set.body_idle_timeout),
        (&mut timeouts.client_body_grace, set.body_rate_grace),
        (&mut timeouts.client_write, set.client_write_timeout),
        (&mut timeouts.client_idle, set.keep_alive_timeout),
        (&mut timeouts.first_byte, set.first_byte_timeout),
        (&mut timeouts.upstream_idle, set.upstream_idle_timeout),
        (&mut timeouts.tunnel_idle, set.tunnel_idle_timeout),
        (&mut timeouts.tcp_idle, set.tcp_idle_timeout),
        (&mut timeouts.udp_idle, set.udp_idle_timeout),
    ] {
        *to = from.unwrap_or(*to);
    }
    for (to, from) in [
        (&mut limits.http.head_bytes_max, set.header_bytes_max),
        (&mut limits.http.headers_max, set.headers_max),
        (&mut limits.http.target_bytes_max, set.target_bytes_max),
        (&mut limits.retries_max, set.retries_max.map(usize::from)),
        (&mut limits.connections_max, set.connections_max),
        (&mut limits.buffer_bytes_max, set.buffer_bytes_max),
        (&mut limits.udp_sessions_max, set.udp_sessions_max),
    ] {
        *to = from.unwrap_or(*to);
    }
    limits.virtual_listeners_max = config.virtual_addresses.map_or(0, |range| range.capacity());
    limits.body_rate_min = set.body_rate_min.unwrap_or(limits.body_rate_min);
    limits.connections_per_source_max = set.connections_per_source_max;
    router.cache_bytes_max = set.cache_bytes_max.unwrap_or(router.cache_bytes_max);
    router.via_name = set.via_name.clone().unwrap_or(router.via_name);
    router.request_start = set.request_start.unwrap_or(router.request_start);
    router.error_pages = Arc::new(config.error_pages.clone());
    router.workers = set.workers.unwrap_or(router.workers);
    router
}

pub(super) fn zone_config(config: &Config) -> ZoneConfig {
    config.dns.as_ref().map_or_else(ZoneConfig::default, |dns| ZoneConfig {
        name: dns.zone.clone(),
        proxy_addrs: dns.proxy_addresses.clone(),
    })
}

fn dns_config(config: &Config) -> Option<portolan_dns::Config> {
    let set = config.dns.as_ref()?;
    let default = portolan_dns::Config::default();
    let mut limits = default.limits;
    limits.cache_bytes_max = set.cache_bytes_max.unwrap_or(limits.cache_bytes_max);
    Some(portolan_dns::Config {
        bind: set.bind.clone(),
        zone: zone_config(config),
        upstreams: match &set.upstreams {
            Some(list) => Upstreams::Static(list.clone()),
            None => Upstreams::ResolvConf(set.resolv_conf.clone()),
        },
        allow: set.allow.clone().unwrap_or(default.allow),
        workers: set.workers.and_then(NonZeroUsize::new).unwrap_or(default.workers),
        limits,
    })
}

fn agent_config(config: &Config, live: &Live) -> Result<AgentConfig, StartError> {
    // Sent once: the file is not read again while the process runs, so the other end may go.
    let (_, declared) = tokio::sync::watch::channel(config.services.clone());
    Ok(AgentConfig {
        node: config.node.name.clone(),
        services_dir: config.agent.services_dir.clone(),
        declared,
        records: live.follow(),
        jobs: job::Config {
            addr: config.node.address,
            ports: config.agent.ports,
            dir: jobs_dir(&config.node.data_dir),
            shim: ShimProgram::current().map_err(StartError::Program)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use portolan_discovery::model::{Backend, HttpRule, Key, PathPattern, Route, Rule, record};
    use portolan_discovery::store::embedded::{Create, Embedded};
    use portolan_discovery::store::{Store, Txn};

    use super::*;

    #[tokio::test]
    async fn the_first_table_has_what_was_written_after_the_last_save() {
        let dir = tempfile::tempdir().unwrap();
        let file = "admin = { bind = \"127.0.0.1:0\" }\nnode = { data_dir = \"data\" }\n";
        let config = Config::parse(&dir.path().join("p.toml"), file).unwrap();
        private_folder(&config.node.data_dir).unwrap();
        let store = Embedded::open(&config.store_path, Create::IfMissing).unwrap();
        let identity = store.status().await.unwrap().identity;
        let saved = SavedFile::at(config.node.data_dir.join("table.saved"));
        saved.save(&Snapshot::default(), &identity).unwrap();
        let name = "late".parse().unwrap();
        let rule = Rule::Http(HttpRule::new("a.test".parse().unwrap(), PathPattern::all()));
        let route = Route::new(name, rule, vec![Backend::to("web".parse().unwrap())]);
        let key = Key::Route(route.name.clone()).to_string();
        let written = store.txn(Txn::default().put(key, record::encode(&route))).await.unwrap();
        store.close();

        let mesh = Mesh::bind(config, false, Offer::default()).await.unwrap();
        assert!(mesh.live.snapshot().route("late").is_some());
        assert_eq!(mesh.live.revision(), written.revision);
    }
}
