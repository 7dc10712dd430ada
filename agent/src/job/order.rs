//! From a placement to the order that its shim gets: command and environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use portolan_discovery::model::Placement;

use super::folder::{LogLimits, Order, WORK};

/// `PATH` for jobs when the agent has none itself.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The order for one run. `folder` is the job's, `path` the agent's own `PATH`.
pub(super) fn compose(
    placement: &Placement,
    addr: Option<SocketAddr>,
    run: u64,
    folder: &Path,
    path: Option<&str>,
) -> Order {
    let spec = &placement.spec;
    let mut env = BTreeMap::from([("PATH".to_owned(), path.unwrap_or(PATH_DEFAULT).to_owned())]);
    env.extend(spec.env.clone());
    let mut ours = vec![
        ("PORTOLAN_JOB", placement.job.to_string()),
        ("PORTOLAN_APP", placement.app.to_string()),
        ("PORTOLAN_PROCESS", placement.process.to_string()),
        ("PORTOLAN_RELEASE", placement.release.to_string()),
        ("PORTOLAN_NODE", placement.node.to_string()),
    ];
    if let Some(service) = &spec.service {
        ours.push(("PORTOLAN_SERVICE", service.to_string()));
    }
    if let Some(addr) = addr {
        ours.push(("PORTOLAN_ADDR", addr.to_string()));
        ours.push(("PORT", addr.port().to_string()));
    }
    env.extend(ours.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let argv = match addr {
        Some(addr) => {
            let port = addr.port().to_string();
            spec.command.iter().map(|arg| with_port(arg, &port)).collect()
        }
        None => spec.command.clone(),
    };
    let cwd = spec.dir.as_ref().map_or_else(|| folder.join(WORK), PathBuf::from);
    Order { run, addr, argv, env, cwd, logs: LogLimits::DEFAULT }
}

/// Replaces `$PORT` and `${PORT}`, but not the beginning of a longer name.
fn with_port(arg: &str, port: &str) -> String {
    let mut text = String::with_capacity(arg.len());
    let mut rest = arg;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let ends_name = |after: &str| {
            !after.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
        };
        if let Some(after) = rest.strip_prefix("${PORT}") {
            text.push_str(port);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("$PORT").filter(|after| ends_name(after)) {
            text.push_str(port);
            rest = after;
        } else {
            text.push('$');
            rest = &rest[1..];
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use portolan_discovery::model::{JobSpec, Resources, Wanted};

    use super::*;

    #[test]
    fn only_the_port_itself_is_replaced() {
        for (arg, expected) in [
            ("$PORT", "80"),
            ("--listen=:${PORT}", "--listen=:80"),
            ("a$PORT/b$PORT.", "a80/b80."),
            ("$PORTOLAN_ADDR $PORT_ ${PORTS} $PORT1", "$PORTOLAN_ADDR $PORT_ ${PORTS} $PORT1"),
            ("$$PORT ${PORT", "$80 ${PORT"),
            ("§$PORT§", "§80§"),
            ("", ""),
        ] {
            assert_eq!(with_port(arg, "80"), expected, "{arg}");
        }
    }

    proptest::proptest! {
        #[test]
        fn text_without_a_dollar_stays(arg in "[^$]{0,40}", port in "[0-9]{1,5}") {
            proptest::prop_assert_eq!(with_port(&arg, &port), arg.clone());
            proptest::prop_assert_eq!(with_port(&format!("{arg}${{PORT}}"), &port), arg + &port);
        }
    }

    fn placement() -> Placement {
        Placement {
            job: "shop-web-1".parse().unwrap(),
            node: "n1".parse().unwrap(),
            app: "shop".parse().unwrap(),
            process: "web".parse().unwrap(),
            release: "v1".parse().unwrap(),
            wanted: Wanted::Run,
            spec: JobSpec {
                command: vec!["serve".into(), "$PORT".into()],
                env: [("PATH", "/opt"), ("PORT", "1"), ("MODE", "x")]
                    .map(|(name, value)| (name.into(), value.into()))
                    .into(),
                dir: None,
                service: Some("web".parse().unwrap()),
                port: None,
                checks: Vec::new(),
                resources: Resources::default(),
                drain_timeout: JobSpec::DRAIN_TIMEOUT,
                kill_timeout: JobSpec::KILL_TIMEOUT,
            },
            since_ms: 0,
        }
    }

    #[test]
    fn a_job_sees_its_own_environment_ours_and_nothing_else() {
        let addr = "127.0.0.1:20000".parse().unwrap();
        let order = compose(&placement(), Some(addr), 1, Path::new("/jobs/a"), Some("/bin"));
        let env: Vec<(&str, &str)> =
            order.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            env,
            [
                ("MODE", "x"),
                ("PATH", "/opt"),
                ("PORT", "20000"),
                ("PORTOLAN_ADDR", "127.0.0.1:20000"),
                ("PORTOLAN_APP", "shop"),
                ("PORTOLAN_JOB", "shop-web-1"),
                ("PORTOLAN_NODE", "n1"),
                ("PORTOLAN_PROCESS", "web"),
                ("PORTOLAN_RELEASE", "v1"),
                ("PORTOLAN_SERVICE", "web"),
            ]
        );
        assert_eq!(order.argv, ["serve", "20000"]);
        assert_eq!(order.cwd, Path::new("/jobs/a/work"));
    }

    #[test]
    fn a_worker_without_a_port_has_none_in_its_environment() {
        let mut worker = placement();
        worker.spec.service = None;
        worker.spec.env.clear();
        let order = compose(&worker, None, 1, Path::new("/jobs/a"), Some("/bin"));
        assert_eq!(order.argv, ["serve", "$PORT"]);
        assert!(!order.env.contains_key("PORT") && !order.env.contains_key("PORTOLAN_ADDR"));
        assert_eq!(order.env["PATH"], "/bin");
    }
}
