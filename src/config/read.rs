//! From the file's sections to a [`Config`]: defaults, references and clashes.

mod addresses;
mod pages;
mod ports;
mod route;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};

use portolan_agent::register::Declared;
use portolan_agent::register::file::ServiceFile;
use portolan_discovery::model::{
    JobSpec, NodeName, Origin, PortRange, ProcessName, Protocol, Resources,
};
use portolan_dns::ZoneName;
use portolan_router::{ProxyProtocol, ViaName};
use toml::Spanned;

use super::error::{ConfigError, Source};
use super::file::{
    AdminFile, AppFile, DnsFile, File, ListenerFile, NodeFile, ProcessFile, RouterFile,
};
use super::value::{ProxyHeader, Size, Span};
use super::{
    ADMIN_BIND, AdminConfig, AgentSettings, AppDeclaration, Config, DATA_DIR, DnsConfig,
    INSTANCES_MAX, Listener, NodeConfig, PROGRESS_DEADLINE, RESOLV_CONF, RouterSettings,
    WORKERS_MAX,
};

/// Reads sections one by one, with the place of each for errors.
pub(super) struct Reader<'a> {
    source: Source<'a>,
    folder: PathBuf,
}

impl<'a> Reader<'a> {
    /// A reader of `source`, whose relative paths start at `folder`.
    pub(super) fn new(source: Source<'a>, folder: &Path) -> Self {
        Self { source, folder: folder.to_owned() }
    }

    /// The whole configuration, or the first thing that is wrong with it.
    pub(super) fn config(&self, file: File) -> Result<Config, ConfigError> {
        let node = self.node(file.node)?;
        let mut listeners = self.listeners(file.listeners)?;
        let ports = file.agent.ports.map_or(PortRange::DEFAULT, |ports| ports.0);
        let tcp_ports = file.router.tcp_ports.as_ref();
        listeners.extend(self.tcp_ports(tcp_ports, &listeners, ports, &file.apps)?);
        let tcp_ports = tcp_ports.map(|at| at.get_ref().ports);
        let certificates = self.certificates(file.certificates)?;
        let admin = self.admin(file.admin)?;
        let dns = file.dns.map(|dns| self.dns(dns, node.address)).transpose()?;
        self.no_socket_twice(&listeners, &admin, dns.as_ref())?;
        let virtual_addresses = self.virtual_addresses(
            file.router.virtual_addresses.as_ref(),
            &listeners,
            &node,
            &admin,
            dns.as_ref(),
        )?;
        let services = self.services(file.services, &node.name)?;
        self.fit_addresses(&services, virtual_addresses.as_ref())?;
        let error_pages = self.error_pages(file.error_pages)?;
        let sets = &error_pages.named;
        self.known_pages(&file.routes, sets)?;
        let routes = self.on_ports(file.routes, tcp_ports)?;
        let routes = self.routes(routes, &listeners, &node.name)?;
        let services_dir = match file.agent.services_dir {
            Some(dir) => Some(self.existing_folder(&dir)?),
            None => None,
        };
        Ok(Config {
            store_path: file
                .store
                .path
                .map_or_else(|| node.data_dir.join("store.redb"), |path| self.folder.join(path)),
            admin,
            router: self.router(file.router)?,
            error_pages,
            certificates,
            listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
            tcp_ports,
            virtual_addresses,
            dns,
            agent: AgentSettings {
                services_dir,
                ports,
                run_jobs: file.agent.run_jobs.unwrap_or(true),
            },
            services: services.into_iter().map(|(declared, _)| declared).collect(),
            routes,
            apps: self.apps(file.apps)?,
            node,
        })
    }

    fn node(&self, file: NodeFile) -> Result<NodeConfig, ConfigError> {
        let machine = machine();
        Ok(NodeConfig {
            name: match file.name {
                Some(name) => name,
                None => host_name().ok_or_else(|| {
                    self.source.whole("the host name is no node name", "set node.name")
                })?,
            },
            address: file.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            zone: file.zone,
            data_dir: self.folder.join(file.data_dir.unwrap_or_else(|| DATA_DIR.into())),
            capacity: Resources {
                cpu_millis: file.cpu.map_or(machine.cpu_millis, |cores| cores.0),
                memory_mib: file.memory.map_or(machine.memory_mib, |size| size.0 >> 20),
            },
        })
    }

    fn admin(&self, file: AdminFile) -> Result<AdminConfig, ConfigError> {
        let token_file = match file.token_file {
            Some(path) => Some(self.existing_file(&path)?),
            None => None,
        };
        let bind = file.bind.as_ref().map_or(ADMIN_BIND, |bind| *bind.get_ref());
        if let (false, None, Some(place)) = (bind.ip().is_loopback(), &token_file, &file.bind) {
            return Err(self.source.at(
                place.span(),
                format!("admin.bind is {bind}, which others can reach, without admin.token_file"),
                "set admin.token_file, or bind a loopback address such as 127.0.0.1:7070",
            ));
        }
        Ok(AdminConfig { bind, token_file })
    }

    fn router(&self, file: RouterFile) -> Result<RouterSettings, ConfigError> {
        let span = |value: Option<Span>| value.map(|span| span.0);
        let size =
            |value: Option<Size>| value.map(|size| usize::try_from(size.0).unwrap_or(usize::MAX));
        Ok(RouterSettings {
            workers: self.workers(file.workers, "router.workers")?,
            connect_timeout: span(file.connect_timeout),
            header_timeout: span(file.header_timeout),
            body_idle_timeout: span(file.body_idle_timeout),
            body_rate_min: file.body_rate_min.map(|size| u32::try_from(size.0).unwrap_or(u32::MAX)),
            body_rate_grace: span(file.body_rate_grace),
            client_write_timeout: span(file.client_write_timeout),
            keep_alive_timeout: span(file.keep_alive_timeout),
            first_byte_timeout: span(file.first_byte_timeout),
            upstream_idle_timeout: span(file.upstream_idle_timeout),
            tunnel_idle_timeout: span(file.tunnel_idle_timeout),
            tcp_idle_timeout: span(file.tcp_idle_timeout),
            udp_idle_timeout: span(file.udp_idle_timeout),
            drain_timeout: span(file.drain_timeout),
            upgrade_drain_timeout: span(file.upgrade_drain_timeout),
            header_bytes_max: size(file.header_bytes_max),
            headers_max: file.headers_max,
            target_bytes_max: size(file.target_bytes_max),
            retries_max: file.retries_max,
            connections_max: file.connections_max.map(NonZeroUsize::get),
            connections_per_source_max: file.connections_per_source_max.map(NonZeroUsize::get),
            udp_sessions_max: file.udp_sessions_max.map(NonZeroUsize::get),
            buffer_bytes_max: size(file.buffer_bytes_max),
            cache_bytes_max: size(file.cache_bytes_max),
            via_name: file.via_name.map(|name| self.via_name(&name)).transpose()?,
            request_start: file.request_start,
        })
    }

    fn via_name(&self, name: &Spanned<String>) -> Result<ViaName, ConfigError> {
        ViaName::parse(name.get_ref()).map_err(|error| {
            let what = format!("router.via_name is {:?}", name.get_ref());
            self.source.at(name.span(), what, error.to_string())
        })
    }

    fn workers(
        &self,
        workers: Option<Spanned<usize>>,
        key: &str,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(workers) = workers else { return Ok(None) };
        if (1..=WORKERS_MAX).contains(workers.get_ref()) {
            return Ok(Some(workers.into_inner()));
        }
        Err(self.source.at(
            workers.span(),
            format!("{key} is {}", workers.get_ref()),
            format!("expected 1 to {WORKERS_MAX}; leave it out for one per core"),
        ))
    }

    fn listeners(
        &self,
        files: Vec<Spanned<ListenerFile>>,
    ) -> Result<Vec<(Listener, Range<usize>)>, ConfigError> {
        let mut listeners: Vec<(Listener, Range<usize>)> = Vec::new();
        for file in files {
            let file = file.into_inner();
            if let Some((_, first)) = listeners.iter().find(|(l, _)| l.name == *file.name.get_ref())
            {
                return Err(self.source.at(
                    file.name.span(),
                    format!(
                        "listener \"{}\" is there already, at line {}",
                        file.name.get_ref(),
                        self.source.line(first.start)
                    ),
                    "give each listener a name of its own",
                ));
            }
            let place = file.bind.span();
            let proxy_protocol = self.proxy_protocol(&file)?;
            self.fits_udp(&file)?;
            let redirect_https = self.redirect_https(&file)?;
            let http2 = self.http2(&file)?;
            self.fits_passthrough(&file)?;
            let protocol = file.protocol;
            let tls = file.tls.map(|tls| self.tls(tls.into_inner(), protocol)).transpose()?;
            listeners.push((
                Listener {
                    name: file.name.into_inner(),
                    bind: file.bind.into_inner(),
                    protocol: file.protocol,
                    trusted: file.trusted,
                    via: file.via.unwrap_or(true),
                    proxy_protocol,
                    tls,
                    redirect_https,
                    http2,
                },
                place,
            ));
        }
        Ok(listeners)
    }

    /// What a listener of UDP cannot have.
    fn fits_udp(&self, file: &ListenerFile) -> Result<(), ConfigError> {
        let bind = &file.bind;
        if file.protocol != Protocol::Udp {
            return Ok(());
        }
        if let Some(header) = &file.proxy_protocol {
            let what = "a UDP listener takes no PROXY headers";
            return Err(self.source.at(header.span(), what, "remove proxy_protocol"));
        }
        if let Some(tls) = &file.tls {
            let what = "a UDP listener speaks no TLS";
            return Err(self.source.at(tls.span(), what, "remove tls"));
        }
        if bind.get_ref().ip().is_unspecified() {
            return Err(self.source.at(
                bind.span(),
                format!(
                    "a UDP listener on {}: answers could leave by another address than was asked",
                    bind.get_ref()
                ),
                "name the address that clients ask, such as 10.0.0.7:53, in a listener for each",
            ));
        }
        Ok(())
    }

    /// What a listener of TLS that is passed on cannot have.
    fn fits_passthrough(&self, file: &ListenerFile) -> Result<(), ConfigError> {
        match &file.tls {
            Some(tls) if file.protocol == Protocol::Tls => Err(self.source.at(
                tls.span(),
                "a listener of TLS passes it on and does not end it",
                "remove tls, or set protocol to \"tcp\" to end TLS here",
            )),
            _ => Ok(()),
        }
    }

    fn proxy_protocol(&self, file: &ListenerFile) -> Result<ProxyProtocol, ConfigError> {
        let Some(header) = &file.proxy_protocol else { return Ok(ProxyProtocol::Off) };
        let mode = match header.get_ref() {
            ProxyHeader::Off => return Ok(ProxyProtocol::Off),
            ProxyHeader::Optional => ProxyProtocol::Optional,
            ProxyHeader::Required => ProxyProtocol::Required,
        };
        if file.trusted.is_empty() {
            return Err(self.source.at(
                header.span(),
                format!("listener \"{}\" takes PROXY headers of nobody", file.name.get_ref()),
                "set trusted to the networks of the proxies in front, such as [\"10.0.0.0/8\"]",
            ));
        }
        Ok(mode)
    }

    fn dns(&self, file: Spanned<DnsFile>, node: IpAddr) -> Result<DnsConfig, ConfigError> {
        let file = file.into_inner();
        if file.bind.get_ref().is_empty() {
            return Err(self.source.at(
                file.bind.span(),
                "dns.bind is empty".to_owned(),
                "name at least one address, or leave [dns] out to have no resolver",
            ));
        }
        if let Some(upstreams) = file.upstreams.as_ref().filter(|list| list.get_ref().is_empty()) {
            return Err(self.source.at(
                upstreams.span(),
                "dns.upstreams is empty".to_owned(),
                "name at least one resolver, or leave the key out to use resolv_conf",
            ));
        }
        let zone = match file.zone {
            None => ZoneName::default(),
            Some(zone) => ZoneName::parse(zone.get_ref()).map_err(|error| {
                self.source.at(
                    zone.span(),
                    format!("dns.zone: {error}"),
                    "expected names joined by dots, such as cluster.internal",
                )
            })?,
        };
        Ok(DnsConfig {
            bind: file.bind.into_inner(),
            zone,
            proxy_addresses: file.proxy_addresses.unwrap_or_else(|| vec![node]),
            upstreams: file.upstreams.map(Spanned::into_inner),
            resolv_conf: file.resolv_conf.unwrap_or_else(|| RESOLV_CONF.into()),
            allow: file.allow,
            cache_bytes_max: file
                .cache_bytes_max
                .map(|size| usize::try_from(size.0).unwrap_or(usize::MAX)),
            workers: self.workers(file.workers, "dns.workers")?,
        })
    }

    fn no_socket_twice(
        &self,
        listeners: &[(Listener, Range<usize>)],
        admin: &AdminConfig,
        dns: Option<&DnsConfig>,
    ) -> Result<(), ConfigError> {
        // TCP and UDP have ports of their own; the resolver takes both.
        let (mut by_tcp, mut by_udp) = (vec![(admin.bind, "admin.bind".to_owned())], Vec::new());
        for bind in dns.into_iter().flat_map(|dns| &dns.bind) {
            by_tcp.push((*bind, "dns.bind".to_owned()));
            by_udp.push((*bind, "dns.bind".to_owned()));
        }
        for (listener, place) in listeners {
            let is_udp = listener.protocol == Protocol::Udp;
            let taken = if is_udp { &mut by_udp } else { &mut by_tcp };
            if let Some((_, other)) = taken.iter().find(|(bind, _)| clash(*bind, listener.bind)) {
                return Err(self.source.at(
                    place.clone(),
                    format!(
                        "listener \"{}\" and {other} both bind {}",
                        listener.name, listener.bind
                    ),
                    "give each a port of its own",
                ));
            }
            taken.push((listener.bind, format!("listener \"{}\"", listener.name)));
        }
        Ok(())
    }

    fn services(
        &self,
        files: Vec<Spanned<ServiceFile>>,
        node: &NodeName,
    ) -> Result<Vec<(Declared, Range<usize>)>, ConfigError> {
        let mut services = Vec::with_capacity(files.len());
        let mut starts = HashMap::new();
        for file in files {
            let place = file.span();
            let declared = file.into_inner().declared(Origin::Config(node.clone()));
            let name = declared.service.name.clone();
            if let Some(first) = starts.insert(name, place.start) {
                return Err(self.source.at(
                    place,
                    format!(
                        "service \"{}\" is there already, at line {}",
                        declared.service.name,
                        self.source.line(first)
                    ),
                    "give each service a name of its own",
                ));
            }
            services.push((declared, place));
        }
        Ok(services)
    }

    fn apps(&self, files: Vec<Spanned<AppFile>>) -> Result<Vec<AppDeclaration>, ConfigError> {
        let mut apps: Vec<(AppDeclaration, usize)> = Vec::new();
        for file in files {
            let place = file.span();
            let app = self.app(file.into_inner(), &place)?;
            if let Some((_, first)) = apps.iter().find(|(other, _)| other.name == app.name) {
                return Err(self.source.at(
                    place,
                    format!("app \"{}\" is there already, at line {first}", app.name),
                    "give each app a name of its own",
                ));
            }
            apps.push((app, self.source.line(place.start)));
        }
        Ok(apps.into_iter().map(|(app, _)| app).collect())
    }

    fn app(&self, file: AppFile, place: &Range<usize>) -> Result<AppDeclaration, ConfigError> {
        if file.processes.is_empty() {
            return Err(self.source.at(
                place.clone(),
                format!("app \"{}\" runs nothing", file.name),
                format!("add a table [apps.processes.{}] with a command", file.name),
            ));
        }
        let mut processes = BTreeMap::new();
        for (name, process) in file.processes {
            if process.instances > INSTANCES_MAX {
                return Err(self.source.at(
                    place.clone(),
                    format!("{} instances of process \"{name}\"", process.instances),
                    format!("expected 0 to {INSTANCES_MAX}"),
                ));
            }
            let count = process.instances;
            processes.insert(name.clone(), (self.job(process, &file.env, &name, place)?, count));
        }
        Ok(AppDeclaration {
            name: file.name,
            labels: file.labels,
            progress_deadline: file.progress_deadline.map_or(PROGRESS_DEADLINE, |span| span.0),
            processes,
        })
    }

    fn job(
        &self,
        file: ProcessFile,
        app_env: &BTreeMap<String, String>,
        name: &ProcessName,
        place: &Range<usize>,
    ) -> Result<JobSpec, ConfigError> {
        let wrong = |what: String, hint: &str| self.source.at(place.clone(), what, hint.to_owned());
        if file.command.first().is_none_or(String::is_empty) {
            return Err(wrong(
                format!("process \"{name}\" has no command"),
                "expected command = [\"PROGRAM\", \"ARGUMENT\", …]",
            ));
        }
        if file.service.is_none() && !file.checks.is_empty() {
            return Err(wrong(
                format!("process \"{name}\" has checks but no service"),
                "add service = \"NAME\": checks decide whether an instance of it takes traffic",
            ));
        }
        let mut env = app_env.clone();
        env.extend(file.env);
        Ok(JobSpec {
            command: file.command,
            env,
            dir: file.dir.map(|dir| self.folder.join(dir).to_string_lossy().into_owned()),
            service: file.service,
            port: file.port,
            checks: file.checks.into_iter().map(|check| check.0).collect(),
            resources: Resources {
                cpu_millis: file.cpu.map_or(0, |cores| cores.0),
                memory_mib: file.memory.map_or(0, |size| size.0 >> 20),
            },
            drain_timeout: file.drain_timeout.map_or(JobSpec::DRAIN_TIMEOUT, |span| span.0),
            kill_timeout: file.kill_timeout.map_or(JobSpec::KILL_TIMEOUT, |span| span.0),
        })
    }

    fn existing_file(&self, path: &Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
        self.existing(path, Path::is_file, "file")
    }

    fn existing_folder(&self, path: &Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
        self.existing(path, Path::is_dir, "folder")
    }

    fn existing(
        &self,
        path: &Spanned<PathBuf>,
        is_there: fn(&Path) -> bool,
        kind: &str,
    ) -> Result<PathBuf, ConfigError> {
        let full = self.folder.join(path.get_ref());
        if is_there(&full) {
            return Ok(full);
        }
        Err(self.source.at(
            path.span(),
            format!("there is no {kind} {}", full.display()),
            "create it or correct the path, which starts at the folder of this file",
        ))
    }
}

/// Whether two sockets cannot be bound both. Port 0 never clashes.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn host_name() -> Option<NodeName> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok()?;
    let label: String = name.split('.').next()?.to_ascii_lowercase().replace('_', "-");
    NodeName::parse(&label).ok()
}

/// What the machine has.
fn machine() -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory_kib = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.trim().split(' ').next()?.parse::<u64>().ok()
        })
        .unwrap_or(0);
    Resources { cpu_millis: cores as u64 * 1000, memory_mib: memory_kib >> 10 }
}
