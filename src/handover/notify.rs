//! What the service manager is told: the datagrams of `sd_notify(3)`. Without `NOTIFY_SOCKET`
//! nobody listens, and nothing is said.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::time::{ClockId, clock_gettime};

/// Says `text`: assignments such as `READY=1`, one a line.
pub fn notify(text: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(name.as_bytes(), text) {
        tracing::warn!(%error, text, "the service manager was not told");
    }
}

fn send(name: &[u8], text: &str) -> io::Result<()> {
    let addr = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &addr)?;
    Ok(())
}

/// The clock that `RELOADING=1` has to come with, in microseconds.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let us = |value: i64, per: i64| u64::try_from(value / per).unwrap_or(0);
    us(now.tv_sec, 1) * 1_000_000 + us(now.tv_nsec, 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_arrives_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("portolan-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (socket, name) in
            [(by_path, path.as_os_str().as_bytes()), (by_name, format!("@{name}").as_bytes())]
        {
            send(name, "READY=1").unwrap();
            let mut text = [0; 16];
            assert_eq!(socket.recv(&mut text).unwrap(), 7);
            assert_eq!(&text[..7], b"READY=1");
        }
        assert!(monotonic_us() > 0);
    }
}
