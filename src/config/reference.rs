//! The reference of the configuration: a row for each key. `portolan reference` and
//! docs/CONFIG.md are made from it; a test holds the rows against what is read.

mod routes;

use routes::ROUTES;

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The table it stands in, as TOML writes it; empty at the top.
    pub table: &'static str,
    /// The key.
    pub key: &'static str,
    /// What holds without it; `required` when nothing does.
    pub default: &'static str,
    /// The form of its value.
    pub form: &'static str,
    /// What it does.
    pub doc: &'static str,
}

const fn row(
    table: &'static str,
    key: &'static str,
    default: &'static str,
    form: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { table, key, default, form, doc }
}

const DURATION: &str = "duration: \"500ms\", \"5s\", \"2m\"";
const SIZE: &str = "size: 512, \"64KiB\", \"10MiB\"";
const NAME: &str = "name: lower-case letters, digits, '-'";
const ADDRESS: &str = "\"ADDRESS:PORT\"";
const TEXTS: &str = "table of texts";

/// Every key, in the order of docs/CONFIG.md.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    [BEFORE_ROUTES, ROUTES, AFTER_ROUTES].into_iter().flatten()
}

/// Those before `[[routes]]`.
const BEFORE_ROUTES: &[Setting] = &[
    row("[node]", "name", "the host name", NAME, "The name of this machine in the cluster."),
    row(
        "[node]",
        "address",
        "127.0.0.1",
        "IP address",
        "The address that other nodes and instances of jobs are reached by.",
    ),
    row("[node]", "zone", "none", "text", "The failure domain; jobs are spread over zones first."),
    row(
        "[node]",
        "data_dir",
        ".portolan",
        "path",
        "Where store, saved table, jobs and their logs lie.",
    ),
    row("[node]", "cpu", "all cores", "number of cores: 0.25, 4", "What jobs may use in all."),
    row("[node]", "memory", "all memory", SIZE, "What jobs may use in all."),
    row("[store]", "path", "DATA_DIR/store.redb", "path", "The file of the embedded store."),
    row("[admin]", "bind", "127.0.0.1:7070", ADDRESS, "API, metrics, /healthz and /readyz."),
    row(
        "[admin]",
        "token_file",
        "none",
        "path",
        "A file with the token that every call must carry as `Authorization: Bearer`, 16 characters or more. Required unless `bind` is loopback.",
    ),
    row("[router]", "workers", "one per core", "1 to 256", "Data workers."),
    row(
        "[router]",
        "connect_timeout",
        "2s",
        DURATION,
        "For an instance to accept a connection; then another is tried.",
    ),
    row(
        "[router]",
        "header_timeout",
        "10s",
        DURATION,
        "From the first byte of a request head to its last: 408.",
    ),
    row(
        "[router]",
        "body_idle_timeout",
        "30s",
        DURATION,
        "Between two pieces of a request body: 408.",
    ),
    row(
        "[router]",
        "body_rate_min",
        "240",
        SIZE,
        "Bytes a second that a request body must come at: 408. On the average since it began, so large pieces pay for pauses; waits for the instance do not count. 0 asks for nothing.",
    ),
    row("[router]", "body_rate_grace", "20s", DURATION, "Before body_rate_min is asked for."),
    row(
        "[router]",
        "client_write_timeout",
        "60s",
        DURATION,
        "For a client to take more of a response, or it is cut.",
    ),
    row(
        "[router]",
        "keep_alive_timeout",
        "75s",
        DURATION,
        "For the next request of a connection that is kept open.",
    ),
    row(
        "[router]",
        "first_byte_timeout",
        "60s",
        DURATION,
        "From the end of a request to the first byte of its response: 504. A route may say otherwise.",
    ),
    row(
        "[router]",
        "upstream_idle_timeout",
        "30s",
        DURATION,
        "How long a connection to an instance is kept for the next request.",
    ),
    row(
        "[router]",
        "tunnel_idle_timeout",
        "1h",
        DURATION,
        "Without a byte in either direction of an upgraded connection, such as a WebSocket.",
    ),
    row(
        "[router]",
        "tcp_idle_timeout",
        "10m",
        DURATION,
        "Without a byte in either direction of a TCP connection.",
    ),
    row(
        "[router]",
        "udp_idle_timeout",
        "30s",
        DURATION,
        "Without a datagram in either direction of a UDP session: what comes from one client's address and port, and goes to one instance. In a drain a second.",
    ),
    row(
        "[router]",
        "drain_timeout",
        "30s",
        DURATION,
        "How long requests and tunnels under way may go on when the process stops.",
    ),
    row(
        "[router]",
        "upgrade_drain_timeout",
        "24h",
        DURATION,
        "How long requests and tunnels under way may go on in a process that an upgrade replaced.",
    ),
    row("[router]", "header_bytes_max", "32KiB", SIZE, "The largest message head: 431."),
    row("[router]", "headers_max", "128", "number", "The most header fields of a message: 431."),
    row("[router]", "target_bytes_max", "8KiB", SIZE, "The longest request target: 414."),
    row(
        "[router]",
        "retries_max",
        "2",
        "0 to 3",
        "How many more instances are tried when one does not accept the connection.",
    ),
    row(
        "[router]",
        "connections_max",
        "16384",
        "number from 1",
        "Client connections of one worker; fewer if the process may open few files. The newest beyond get 503 with Retry-After and are closed, TCP connections are reset.",
    ),
    row(
        "[router]",
        "connections_per_source_max",
        "none",
        "number from 1",
        "Connections of one source, an IPv4 address or an IPv6 /64, to one worker; the newest beyond are closed as above. Trusted peers are not limited.",
    ),
    row(
        "[router]",
        "udp_sessions_max",
        "4096",
        "number from 1",
        "UDP sessions of one worker; datagrams of more clients are dropped. Each takes a file descriptor, so at most a quarter of the process's are used.",
    ),
    row(
        "[router]",
        "buffer_bytes_max",
        "256MiB",
        SIZE,
        "Buffers that one worker holds for what is under way. From a quarter of it on only small ones are used; beyond it new requests get 503 with Retry-After.",
    ),
    row(
        "[router]",
        "cache_bytes_max",
        "64MiB",
        SIZE,
        "Memory for the answers that routes with `cache` keep, for all workers together; what was not asked for lately makes room. 0 keeps nothing.",
    ),
    row(
        "[router]",
        "via_name",
        "portolan",
        "letter, then letters, digits, -, _ and .",
        "What Via and Proxy-Status call this router; a tag that differs with each start is appended.",
    ),
    row(
        "[router]",
        "request_start",
        "false",
        "true or false",
        "Whether instances are told when the router had read the head of a request: `X-Request-Start: t=MILLISECONDS` of Unix time. A client's own is replaced, a trusted peer's kept.",
    ),
    row(
        "[router]",
        "tcp_ports",
        "none",
        "\"ADDRESS:FIRST-LAST\"",
        "Ports that TCP routes can be given, at most 1000, by `port` here or in the API (0 is any that is free). All are bound at the start, so that no route fails for its port; a connection to one without a route is reset. No other listener and no job may have one of them. Their listeners are named port-NUMBER.",
    ),
    row(
        "[router]",
        "virtual_addresses",
        "none",
        "range: \"127.64.0.0/16\", \"fd00:7::/64\"",
        "The range that TCP services with a `virtual_port` are given addresses of, one each, 1000 at most; see docs/VIRTUAL_ADDRESSES.md. Its first and last address are nobody's. IPv4 from /8 to /30, IPv6 from /64 to /126; nothing else of this file may be in it.",
    ),
    row(
        "[error_pages]",
        "STATUS",
        "a short text",
        "\"503\" = \"busy.html\", \"5xx\" = \"oops.html\"",
        "What the router's own answers with this status, or all others from 400 or 500 on, look like: a file of .html, .htm, .xml, .json or .txt with at most 64 KiB, read at start. {{status}}, {{phrase}}, {{reason}} and {{request_id}} are filled in. Without room for it the short text is sent.",
    ),
    row(
        "[error_pages]",
        "json",
        "false",
        "true or false",
        "Whether a client whose Accept prefers application/json to HTML gets {\"status\", \"reason\", \"request_id\"} instead.",
    ),
    row(
        "[error_pages.NAME]",
        "STATUS",
        "that of [error_pages]",
        "as above",
        "Pages for the routes that name them in error_pages.",
    ),
    row("[[listeners]]", "name", "required", NAME, "The name that routes and metrics use."),
    row("[[listeners]]", "bind", "required", ADDRESS, "Where it listens; port 0 takes a free one."),
    row(
        "[[listeners]]",
        "protocol",
        "http",
        "\"http\", \"tcp\", \"udp\" or \"tls\"",
        "What it speaks. A TCP or UDP listener has one route, which names it. \"tls\" passes TLS on as it comes, and instances end it: routes that name the listener are chosen by the host that the client asks for (SNI), one for `*` gets what has no other and those that ask for none; without it they are refused with the alert unrecognized_name. The client's first message must come within header_timeout and 16 KiB; what is none is refused. portolan_router_tls_passed_on_total counts. UDP needs an address of its own, not 0.0.0.0 or [::]: answers leave by the one that was asked.",
    ),
    row(
        "[[listeners]]",
        "trusted",
        "none",
        "list of networks: [\"10.0.0.0/8\"]",
        "Peers whose X-Forwarded-* fields are kept and added to; those of others are replaced.",
    ),
    row(
        "[[listeners]]",
        "via",
        "true",
        "true or false",
        "Whether Via is added to requests and responses, and a request that was here before is refused: 508.",
    ),
    row(
        "[[listeners]]",
        "proxy_protocol",
        "off",
        "\"off\", \"optional\" or \"required\"",
        "Whether connections of trusted peers begin with a PROXY header, version 1 or 2; its client is the client for everything then. Required closes all other connections.",
    ),
    row(
        "[[listeners]]",
        "redirect_https",
        "off",
        "port from 1: 443",
        "Every request is answered with 308 to the same host and path by https on this port.",
    ),
    row(
        "[[listeners]]",
        "http2",
        "true",
        "true, false",
        "Clients may speak HTTP/2: over TLS they agree on it (ALPN), without TLS they begin with it. See docs/HTTP2.md.",
    ),
    row(
        "[[listeners]]",
        "tls",
        "off",
        "{} or keys of [listeners.tls]",
        "Clients come by TLS: 1.3 or 1.2, with a certificate of [[certificates]] for the host that they name. HTTP/2 and HTTP/1.1 are spoken in it.",
    ),
    row(
        "[listeners.tls]",
        "default_certificate",
        "the first",
        "name of a certificate",
        "What clients are shown that name no host, or one without a certificate; it may be one of the store. The first is that of the first file, without files that of the first name.",
    ),
    row(
        "[listeners.tls]",
        "unknown_name",
        "default",
        "\"default\" or \"refuse\"",
        "Whether a client that names a host without a certificate is shown the default one, or refused with the alert unrecognized_name.",
    ),
    row(
        "[listeners.tls]",
        "version_min",
        "1.2",
        "\"1.2\" or \"1.3\"",
        "The oldest version of TLS.",
    ),
    row(
        "[listeners.tls]",
        "handshake_timeout",
        "10s",
        DURATION,
        "From the accept to the end of the handshake.",
    ),
    row(
        "[listeners.tls]",
        "client_ca_file",
        "none",
        "path",
        "Authorities in PEM, read at start: clients are asked for a certificate of theirs. Instances get it as Client-Cert and Client-Cert-Chain (RFC 9440); what a client sends by these names is dropped.",
    ),
    row(
        "[listeners.tls]",
        "client_certificates",
        "required",
        "\"required\" or \"optional\"",
        "With client_ca_file: whether a client without a certificate is refused.",
    ),
    row(
        "[listeners.tls]",
        "hsts",
        "off",
        "{ max_age = \"365d\", subdomains = true, preload = false }",
        "Strict-Transport-Security (RFC 6797) on every response, the router's own too: browsers come by https only from then on.",
    ),
    row(
        "[listeners.tls]",
        "alpn",
        "none",
        "list of names: [\"postgresql\"]",
        "What a TCP listener agrees on with clients (ALPN), the best first: what its instances speak. A PROXY header of version 2 tells them which. A client that offers only others is refused.",
    ),
    row(
        "[[certificates]]",
        "name",
        "required",
        NAME,
        "A certificate that listeners with tls show, beside those that the store keeps (`portolan certs add`); one of the store with the same name is hidden by it.",
    ),
    row(
        "[[certificates]]",
        "chain_file",
        "required",
        "path",
        "The certificate in PEM and those that lead to its authority. It is for the names in it; one with a wildcard is for all hosts below it. Of several for a host the first is shown, files before the store.",
    ),
    row(
        "[[certificates]]",
        "key_file",
        "required",
        "path",
        "Its private key in PEM, which nobody else should be able to read. Both files are followed as they change; a pair that does not fit, or has expired, is not taken, and the last good one is shown.",
    ),
    row(
        "[dns]",
        "bind",
        "required",
        "list of \"ADDRESS:PORT\"",
        "Where the resolver listens, by UDP and TCP. Without [dns] there is no resolver.",
    ),
    row(
        "[dns]",
        "zone",
        "cluster.internal",
        "name",
        "The zone whose names are answered from the cluster, and never forwarded.",
    ),
    row(
        "[dns]",
        "proxy_addresses",
        "node.address",
        "list of IP addresses",
        "What the name of a service leads to: this node's router.",
    ),
    row(
        "[dns]",
        "upstreams",
        "from resolv_conf",
        "list of \"ADDRESS:PORT\"",
        "The resolvers for all other names, in order.",
    ),
    row(
        "[dns]",
        "resolv_conf",
        "/etc/resolv.conf",
        "path",
        "The file with the resolvers for all other names; followed as it changes.",
    ),
    row(
        "[dns]",
        "allow",
        "private and loopback",
        "list of networks",
        "Who may ask; others are refused.",
    ),
    row("[dns]", "cache_bytes_max", "16MiB", SIZE, "The size of the cache of forwarded answers."),
    row("[dns]", "workers", "one per core", "1 to 256", "Threads that answer."),
    row(
        "[agent]",
        "services_dir",
        "none",
        "path",
        "A folder of files, each with one service of this machine; followed as it changes.",
    ),
    row("[agent]", "ports", "20000-29999", "\"FIRST-LAST\"", "The ports that jobs are given."),
    row("[agent]", "run_jobs", "true", "true or false", "Whether jobs may be placed here."),
    row("[[services]]", "name", "required", NAME, "A service that this machine registers."),
    row("[[services]]", "protocol", "http", "\"http\", \"tcp\" or \"udp\"", "What it speaks."),
    row(
        "[[services]]",
        "http_version",
        "h1",
        "\"h1\" or \"h2\"",
        "Which HTTP instances are spoken to in. `h2` is agreed on where there is TLS, else it begins with the first byte; a connection serves many requests at a time. See docs/HTTP2.md.",
    ),
    row(
        "[[services]]",
        "keep_alive",
        "true",
        "true or false",
        "Whether connections to instances are kept for the next request.",
    ),
    row(
        "[[services]]",
        "balance",
        "p2c",
        "\"p2c\", \"round_robin\", \"least\" or \"hash\"",
        "How requests are spread over the instances, by weight. `p2c`: of two random ones the one with less under way, times its latency where that is at least twice the other's. `round_robin`: exactly in turn. `least`: the one with the least under way. `hash`: the same one for the same client.",
    ),
    row(
        "[[services]]",
        "hash_by",
        "required for hash",
        "\"header:NAME\", \"cookie:NAME\" or \"source\"",
        "What clients are told apart by for `hash`; `source` is the address that the connection comes from. A request without it is spread as by `p2c`. All routers lead a client to the same instance, and an instance that goes moves its own clients only.",
    ),
    row(
        "[[services]]",
        "slow_start",
        "none",
        DURATION,
        "How long an instance that came up takes from a tenth of its share to all of it.",
    ),
    row(
        "[[services]]",
        "ejection",
        "{ errors = 5, time = \"30s\", share_max = 50 }",
        "such a table, or false",
        "After so many gateway errors in a row (no connection, no answer or a broken one, 502, 503, 504) an instance is left alone for that time, for longer with each time in a row (up to ten times), at most `share_max` per cent of the instances at once. One that nobody else can stand in for is used all the same.",
    ),
    row(
        "[[services]]",
        "sticky",
        "off",
        "{ cookie = \"NAME\", max_age = \"1h\" }",
        "A cookie keeps a client with the instance that served it, as long as that takes traffic and has room. Without `max_age` until the browser is closed.",
    ),
    row(
        "[[services]]",
        "in_flight_max",
        "no limit",
        "1 to 4294967295",
        "The most requests and tunnels that one router has under way on one instance.",
    ),
    row(
        "[[services]]",
        "queue_max",
        "1024",
        "0 to 65536",
        "Requests of one router that wait, first come first served, while all instances have in_flight_max under way; one more gets 503.",
    ),
    row("[[services]]", "queue_wait", "5s", DURATION, "How long a request waits, then 503."),
    row(
        "[[services]]",
        "proxy_protocol",
        "off",
        "\"off\", \"v1\" or \"v2\"",
        "The PROXY header that connections to instances begin with: the client's address and the one it came to, of http, tcp and tls; version 2 with a checksum, the host that a client of TLS asked for, and what a TCP listener with alpn agreed on. A connection serves one client then and is kept for that one only, so instances have a connection for each client. Mirrored requests and checks name nobody (LOCAL, UNKNOWN).",
    ),
    row(
        "[[services]]",
        "tls",
        "off",
        "{} or { ca_file, name, verify, chain_file, key_file }",
        "Instances are spoken to by TLS. Their certificate must be of an authority in `ca_file` (the system's by default) and for `name` (the address by default), unless `verify = false`. `chain_file` and `key_file` are shown to instances that ask. All are read on every machine with a router when the service changes, so paths begin with `/`; while one cannot be used, the instances get nothing. A handshake that fails is a 502; it has to end within connect_timeout.",
    ),
    row(
        "[[services]]",
        "virtual_port",
        "none",
        "1 to 65535",
        "The service is given an address of its own of router.virtual_addresses, where this port leads to its instances, and its name in the zone leads there. For tcp. See docs/VIRTUAL_ADDRESSES.md.",
    ),
    row("[[services]]", "labels", "none", TEXTS, "Free key-value pairs."),
    row(
        "[[services]]",
        "instances",
        "none",
        "list of { addr, id, weight, labels }",
        "Its instances here; `id` is made from `addr` by default.",
    ),
    row(
        "[[services]]",
        "checks",
        "none: always up",
        "list of checks",
        "All must pass for an instance to take traffic; see [checks] below.",
    ),
];

/// Those after `[[routes]]`.
const AFTER_ROUTES: &[Setting] = &[
    row(
        "[[apps]]",
        "name",
        "required",
        NAME,
        "An app. It is deployed when its declaration here changes.",
    ),
    row("[[apps]]", "labels", "none", TEXTS, "Free key-value pairs."),
    row("[[apps]]", "env", "none", TEXTS, "Environment of all its processes."),
    row(
        "[[apps]]",
        "progress_deadline",
        "2m",
        DURATION,
        "A deployment that stands this long without a new healthy job is reverted.",
    ),
    row(
        "[apps.processes.NAME]",
        "command",
        "required",
        "list of texts",
        "The program and its arguments. $PORT and ${PORT} are replaced. PATH has the folder of portolan at its end.",
    ),
    row("[apps.processes.NAME]", "instances", "1", "0 to 10000", "How many run."),
    row(
        "[apps.processes.NAME]",
        "service",
        "none",
        "name of a service",
        "The service whose instances they are.",
    ),
    row(
        "[apps.processes.NAME]",
        "port",
        "one of agent.ports",
        "1 to 65535",
        "A fixed port: at most one such job on a machine.",
    ),
    row("[apps.processes.NAME]", "env", "none", TEXTS, "Environment, beside PORT and PORTOLAN_*."),
    row("[apps.processes.NAME]", "dir", "the job's folder", "path", "The working directory."),
    row(
        "[apps.processes.NAME]",
        "checks",
        "none: up once started",
        "list of checks",
        "As of [[services]].",
    ),
    row(
        "[apps.processes.NAME]",
        "cpu",
        "0",
        "number of cores: 0.25, 4",
        "What the scheduler sets aside.",
    ),
    row("[apps.processes.NAME]", "memory", "0", SIZE, "What the scheduler sets aside."),
    row(
        "[apps.processes.NAME]",
        "drain_timeout",
        "30s",
        DURATION,
        "The longest wait for requests and tunnels under way before SIGTERM.",
    ),
    row("[apps.processes.NAME]", "kill_timeout", "10s", DURATION, "From SIGTERM to SIGKILL."),
    row(
        "[checks]",
        "kind",
        "required",
        "\"http\", \"https\", \"tcp\" or \"exec\"",
        "What a probe does.",
    ),
    row("[checks]", "every", "5s", DURATION, "From one probe to the next, with jitter."),
    row("[checks]", "timeout", "2s", DURATION, "A probe without a result by then has failed."),
    row("[checks]", "rise", "2", "1 to 255", "Good results in a row that bring an instance back."),
    row("[checks]", "fall", "3", "1 to 255", "Bad results in a row that take an instance out."),
    row(
        "[checks]",
        "start_period",
        "10s",
        DURATION,
        "After a start, probes come fast and failures do not count.",
    ),
    row("[checks]", "path", "/", "text", "http(s): path and query."),
    row("[checks]", "method", "GET", "text", "http(s): the method."),
    row(
        "[checks]",
        "host",
        "the address",
        "text",
        "http(s): the Host field and the server name of TLS.",
    ),
    row("[checks]", "headers", "none", TEXTS, "http(s): more header fields."),
    row(
        "[checks]",
        "status",
        "200 to 399",
        "list of codes and ranges: [200, \"300-399\"]",
        "http(s): the statuses that pass.",
    ),
    row(
        "[checks]",
        "body",
        "none",
        "text",
        "http(s): a text that the first 64 KiB of the body must have.",
    ),
    row(
        "[checks]",
        "verify",
        "true",
        "true or false",
        "https: whether the certificate must be valid.",
    ),
    row("[checks]", "ca_file", "the system's", "path", "https: the authorities to trust, in PEM."),
    row(
        "[checks]",
        "command",
        "required for exec",
        "list of texts",
        "exec: 0 passes. PORTOLAN_CHECK_ADDR is the instance.",
    ),
];

const HEAD: &str = "# Configuration

One TOML file: `portolan up FILE`, by default `portolan.toml`. Unknown keys are errors.
`portolan check FILE` tells what is wrong, with line and accepted values. Relative paths start
at the folder of the file. This page is what `portolan reference` prints.
";

/// The reference as Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut table = "";
    for setting in settings() {
        if setting.table != table {
            table = setting.table;
            page.push_str(&format!(
                "\n## {table}\n\n| key | default | form | |\n|---|---|---|---|\n"
            ));
        }
        let Setting { key, default, form, doc, .. } = setting;
        page.push_str(&format!("| `{key}` | {default} | {form} | {doc} |\n"));
    }
    page
}
