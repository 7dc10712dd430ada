//! Clients that come back: to a router with the same keys for tickets, and to one with others.

use std::sync::Arc;

use portolan_discovery::model::{TicketKey, TicketKeys};
use portolan_router::{fresh_ticket_key, fresh_ticket_keys};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};

use super::authority::{Authority, set};
use super::handshakes::{client_with, rig, shake_with};
use super::instance::Instance;
use super::peer::Peer;
use super::rig::Rig;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// Routers for the same host.
async fn routers<const N: usize>(authority: &Authority) -> [(Rig, Instance); N] {
    let certificates = set(&[&authority.issue(&["a.test"])]);
    let mut all = Vec::new();
    for _ in 0..N {
        let (rig, instance) = rig(|_| {}).await;
        rig.router.certificates().publish(Arc::clone(&certificates));
        all.push((rig, instance));
    }
    all.try_into().unwrap_or_else(|_| unreachable!())
}

fn next(keys: &TicketKeys) -> TicketKeys {
    keys.rotated(fresh_ticket_key().unwrap(), 0)
}

/// How a client gets in, which is answered and goes away with a new ticket.
async fn visit(rig: &Rig, client: &Arc<ClientConfig>) -> HandshakeKind {
    let mut peer = Peer::over(shake_with(rig.http, client, "a.test").await.unwrap());
    // Tickets come behind the handshake.
    assert_eq!(peer.get("/").await.status(), 200);
    peer.stream().get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn routers_with_the_same_keys_resume_each_other_s_sessions() {
    let authority = Authority::new();
    for version in VERSIONS {
        let [(here, _a), (there, _b), (stranger, _c)] = routers(&authority).await;
        let keys = fresh_ticket_keys(0).unwrap();
        here.router.tickets().publish(&keys);
        there.router.tickets().publish(&keys);
        let client = Arc::new(client_with(&authority, &[version]));
        assert_eq!(visit(&here, &client).await, HandshakeKind::Full);
        assert_eq!(visit(&there, &client).await, HandshakeKind::Resumed);
        assert_eq!(visit(&here, &client).await, HandshakeKind::Resumed);
        assert_eq!(visit(&stranger, &client).await, HandshakeKind::Full);
    }
}

#[tokio::test]
async fn sessions_outlive_one_change_of_keys_and_not_two() {
    let authority = Authority::new();
    for version in VERSIONS {
        let [(rig, _a), (late, _b)] = routers(&authority).await;
        let first = fresh_ticket_keys(0).unwrap();
        rig.router.tickets().publish(&first);
        late.router.tickets().publish(&first);
        let [client, other] = [(); 2].map(|()| Arc::new(client_with(&authority, &[version])));
        assert_eq!(visit(&rig, &client).await, HandshakeKind::Full);
        assert_eq!(visit(&rig, &other).await, HandshakeKind::Full);
        let second = next(&first);
        rig.router.tickets().publish(&second);
        assert_eq!(visit(&rig, &client).await, HandshakeKind::Resumed);
        // That has left it a ticket of the new key, which one that has not heard of it takes.
        assert_eq!(visit(&late, &client).await, HandshakeKind::Resumed);
        rig.router.tickets().publish(&next(&second));
        assert_eq!(visit(&rig, &other).await, HandshakeKind::Full);
        assert_eq!(visit(&rig, &other).await, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn a_ticket_that_cannot_be_opened_costs_a_whole_handshake_and_no_more() {
    let authority = Authority::new();
    for version in VERSIONS {
        let [(rig, _instance)] = routers(&authority).await;
        let keys = fresh_ticket_keys(0).unwrap();
        rig.router.tickets().publish(&keys);
        let client = Arc::new(client_with(&authority, &[version]));
        assert_eq!(visit(&rig, &client).await, HandshakeKind::Full);
        // Keys of these names that are others: what was sealed is garbage to them.
        let same_name = |key: &TicketKey| {
            let other = fresh_ticket_key().unwrap();
            TicketKey::new(*key.name(), other.secret().to_owned().into())
        };
        let (current, next) = (same_name(&keys.current), same_name(&keys.next));
        rig.router.tickets().publish(&TicketKeys { current, next, ..keys });
        assert_eq!(visit(&rig, &client).await, HandshakeKind::Full);
        assert_eq!(visit(&rig, &client).await, HandshakeKind::Resumed);
    }
}
