//! TLS tickets (RFC 5077, RFC 8446 §4.6.1): all that a session needs, sealed for the client to keep.
//! Whoever has the same keys takes them: any worker, any router, the same one after a restart. How
//! the keys get to all of them, and when they change, is for others to say.
//!
//! A ticket is the name of its key, a nonce and what AES-256-GCM makes of the session.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use portolan_discovery::model::{
    TICKET_NAME_BYTES, TICKET_PERIOD_MS, TICKET_SECRET_BYTES, TicketKey, TicketKeys,
};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::settings::ClientCertificates;

/// The most tickets that one process seals with a key: more get none until the next key. Nonces are
/// random, and NIST SP 800-38D §8.3 allows 2^32 of them for one key; four routers stay below that at
/// 50,000 tickets a second each.
const SEALED_MAX: u64 = 1 << 30;

/// What a ticket is bound to beside its key.
const SCOPE_BYTES: usize = 32;

/// The system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// A new key.
///
/// # Errors
/// When the system gives no random bytes.
pub fn fresh_ticket_key() -> Result<TicketKey, NoRandomness> {
    let mut name = [0; TICKET_NAME_BYTES];
    let mut secret = Zeroizing::new([0; TICKET_SECRET_BYTES]);
    rand::fill(&mut name).map_err(|_| NoRandomness)?;
    rand::fill(&mut *secret).map_err(|_| NoRandomness)?;
    Ok(TicketKey::new(name, secret))
}

/// New keys that nobody else has, of a period that begins at `now_ms` of Unix time.
///
/// # Errors
/// When the system gives no random bytes.
pub fn fresh_ticket_keys(now_ms: u64) -> Result<TicketKeys, NoRandomness> {
    Ok(TicketKeys {
        previous: None,
        current: fresh_ticket_key()?,
        next: fresh_ticket_key()?,
        since_ms: now_ms,
    })
}

/// The keys in force, which all workers share.
pub struct Tickets {
    /// Read once or twice a handshake, which costs a thousand times as much.
    ring: RwLock<Arc<Ring>>,
}

/// Keys that do not change.
struct Ring {
    /// The one that seals is the first.
    keys: Vec<([u8; TICKET_NAME_BYTES], RandomizedNonceKey)>,
    sealed: AtomicU64,
}

impl Tickets {
    /// Tickets with these keys, until others are published.
    pub(crate) fn new(keys: &TicketKeys) -> Self {
        Self { ring: RwLock::new(Arc::new(Ring::new(keys, 0))) }
    }

    /// Handshakes that begin from now on use `keys`.
    pub fn publish(&self, keys: &TicketKeys) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let (sealing, _) = &ring.keys[0];
        let sealed = match sealing == keys.current.name() {
            true => ring.sealed.load(Ordering::Relaxed),
            false => 0,
        };
        *ring = Arc::new(Ring::new(keys, sealed));
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ring {
    fn new(keys: &TicketKeys, sealed: u64) -> Self {
        let key = |key: &TicketKey| {
            let sealing = RandomizedNonceKey::new(&AES_256_GCM, key.secret());
            (*key.name(), sealing.expect("a key of AES-256 has 32 bytes"))
        };
        Self { keys: keys.all().map(key).collect(), sealed: AtomicU64::new(sealed) }
    }

    fn seal(&self, plain: &[u8], scope: &[u8; SCOPE_BYTES]) -> Option<Vec<u8>> {
        if self.sealed.fetch_add(1, Ordering::Relaxed) >= SEALED_MAX {
            return None;
        }
        let (name, key) = &self.keys[0];
        let mut body = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(bound(name, scope)), &mut body).ok()?;
        Some([&name[..], nonce.as_ref(), &body].concat())
    }

    fn open(&self, ticket: &[u8], scope: &[u8; SCOPE_BYTES]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<TICKET_NAME_BYTES>()?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (_, key) = self.keys.iter().find(|(known, _)| known == name)?;
        let mut body = body.to_vec();
        let aad = Aad::from(bound(name, scope));
        Some(key.open_in_place(Nonce::from(nonce), aad, &mut body).ok()?.to_vec())
    }
}

fn bound(name: &[u8], scope: &[u8]) -> Vec<u8> {
    [name, scope].concat()
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

/// The tickets of a listener. Who resumes a session is not asked for a certificate again, so its
/// ticket is good only where the same is asked of clients, whatever has changed since.
#[derive(Debug)]
pub(crate) struct ListenerTickets {
    tickets: Arc<Tickets>,
    scope: [u8; SCOPE_BYTES],
}

impl ListenerTickets {
    /// Tickets of a listener that asks this of clients.
    pub(crate) fn new(tickets: &Arc<Tickets>, clients: Option<&ClientCertificates>) -> Self {
        let scope = clients.map_or([0; SCOPE_BYTES], ClientCertificates::fingerprint);
        Self { tickets: Arc::clone(tickets), scope }
    }
}

impl ProducesTickets for ListenerTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// In seconds: for how long a ticket is good at least.
    fn lifetime(&self) -> u32 {
        (TICKET_PERIOD_MS / 1000) as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.ring().seal(plain, &self.scope)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.tickets.ring().open(ticket, &self.scope)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(tickets: &Arc<Tickets>) -> ListenerTickets {
        ListenerTickets::new(tickets, None)
    }

    fn keys() -> TicketKeys {
        fresh_ticket_keys(0).unwrap()
    }

    fn next(keys: &TicketKeys) -> TicketKeys {
        keys.rotated(fresh_ticket_key().unwrap(), 0)
    }

    #[test]
    fn a_ticket_is_opened_by_all_who_have_its_key_and_by_nobody_else() {
        let keys = keys();
        let [here, there] = [(); 2].map(|()| of(&Arc::new(Tickets::new(&keys))));
        let ticket = here.encrypt(b"session").unwrap();
        assert!(ticket.starts_with(keys.current.name()));
        assert_eq!(ticket.len(), TICKET_NAME_BYTES + NONCE_LEN + b"session".len() + 16);
        assert!(!ticket.windows(7).any(|part| part == b"session"));
        assert_eq!(there.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_ne!(here.encrypt(b"session").unwrap(), ticket, "each has a nonce of its own");
        let stranger = of(&Arc::new(Tickets::new(&self::keys())));
        assert_eq!(stranger.decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_is_good_for_its_period_and_the_next_one_also_where_that_has_begun() {
        let first = keys();
        let tickets = Arc::new(Tickets::new(&first));
        let old = of(&tickets).encrypt(b"old").unwrap();
        let second = next(&first);
        // Of a router that is a period ahead of this one.
        let ahead = of(&Arc::new(Tickets::new(&second))).encrypt(b"ahead").unwrap();
        assert!(of(&tickets).decrypt(&ahead).is_some());
        tickets.publish(&second);
        assert!(of(&tickets).decrypt(&old).is_some());
        let new = of(&tickets).encrypt(b"new").unwrap();
        assert!(new.starts_with(second.current.name()));
        tickets.publish(&next(&second));
        assert_eq!(of(&tickets).decrypt(&old), None);
        assert!(of(&tickets).decrypt(&new).is_some());
    }

    #[test]
    fn a_ticket_is_good_only_where_the_same_is_asked_of_clients() {
        let authority = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = rcgen::CertificateParams::new(names).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let (a, b) = (authority(&["a.test"]), authority(&["b.test"]));
        let asked = |pem: &str, required| ClientCertificates::of(pem.as_bytes(), required).unwrap();
        let all = [
            None,
            Some(asked(&a, true)),
            Some(asked(&a, false)),
            Some(asked(&b, true)),
            Some(asked(&format!("{a}{b}"), true)),
        ];
        let tickets = Arc::new(Tickets::new(&keys()));
        let of =
            |asked: &Option<ClientCertificates>| ListenerTickets::new(&tickets, asked.as_ref());
        for (at, asked) in all.iter().enumerate() {
            let ticket = of(asked).encrypt(b"session").unwrap();
            for (other, there) in all.iter().enumerate() {
                let opened = of(there).decrypt(&ticket).is_some();
                assert_eq!(opened, at == other, "of {at} at {other}");
            }
        }
        let ticket = of(&all[4]).encrypt(b"session").unwrap();
        let turned = Some(asked(&format!("{b}{a}"), true));
        assert!(of(&turned).decrypt(&ticket).is_some(), "their order says nothing");
    }

    #[test]
    fn a_key_seals_only_so_many_tickets_also_when_it_is_published_again() {
        let keys = keys();
        let tickets = Arc::new(Tickets::new(&keys));
        tickets.ring().sealed.store(SEALED_MAX - 1, Ordering::Relaxed);
        assert!(of(&tickets).encrypt(b"last").is_some());
        tickets.publish(&keys);
        assert_eq!(of(&tickets).encrypt(b"too many"), None);
        tickets.publish(&next(&keys));
        assert!(of(&tickets).encrypt(b"of another key").is_some());
    }

    proptest! {
        #[test]
        fn what_is_no_ticket_is_not_opened(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in 0_usize..67, bit in 0_u8..8,
        ) {
            let keys = keys();
            let tickets = of(&Arc::new(Tickets::new(&keys)));
            prop_assert_eq!(tickets.decrypt(&bytes), None);
            let named = [&keys.current.name()[..], &bytes].concat();
            prop_assert_eq!(tickets.decrypt(&named), None);
            let mut ticket = tickets.encrypt(&[7; 23]).unwrap();
            ticket[flip] ^= 1 << bit;
            prop_assert_eq!(tickets.decrypt(&ticket), None);
            prop_assert_eq!(tickets.decrypt(&ticket[..flip]), None);
        }
    }
}
