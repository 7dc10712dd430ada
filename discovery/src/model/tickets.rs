//! The keys that TLS tickets are sealed with, which all routers share: a client that was here
//! resumes its session at any of them, and after a restart.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// The bytes of a key's name, which stands before each ticket.
pub const TICKET_NAME_BYTES: usize = 16;
/// The bytes of a key: AES-256.
pub const TICKET_SECRET_BYTES: usize = 32;
/// How long a key seals tickets. They are taken for as long again, so each is good for one of these
/// at least and for two at most; a session of TLS 1.2 can be read for that long by who has its key.
pub const TICKET_PERIOD_MS: u64 = 6 * 60 * 60 * 1000;

/// A key for tickets. Its secret is in no `Debug` and in no error, and wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    name: [u8; TICKET_NAME_BYTES],
    secret: Zeroizing<[u8; TICKET_SECRET_BYTES]>,
}

impl TicketKey {
    /// A key of random bytes.
    pub fn new(
        name: [u8; TICKET_NAME_BYTES],
        secret: Zeroizing<[u8; TICKET_SECRET_BYTES]>,
    ) -> Self {
        Self { name, secret }
    }

    /// Its name, which is no secret.
    pub fn name(&self) -> &[u8; TICKET_NAME_BYTES] {
        &self.name
    }

    /// Its secret. For those who seal with it, and nobody else.
    pub fn secret(&self) -> &[u8; TICKET_SECRET_BYTES] {
        &self.secret
    }
}

/// The keys of one period: tickets are sealed with the current one. The next one is known already, so
/// that a router which has not heard of the change takes tickets of one that has.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct TicketKeys {
    /// The key of the period before, if there was one.
    pub previous: Option<TicketKey>,
    /// The key that seals.
    pub current: TicketKey,
    /// The key of the period to come.
    pub next: TicketKey,
    /// Since when the current one seals, in milliseconds of Unix time.
    pub since_ms: u64,
}

impl TicketKeys {
    /// How long the current key has been in use; 0 by a clock that is behind.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.since_ms)
    }

    /// The keys of the period that begins at `now_ms`. `next` is for the one after it.
    #[must_use]
    pub fn rotated(&self, next: TicketKey, now_ms: u64) -> Self {
        Self {
            previous: Some(self.current.clone()),
            current: self.next.clone(),
            next,
            since_ms: now_ms,
        }
    }

    /// The keys whose tickets are taken, that of the newest first.
    pub fn all(&self) -> impl Iterator<Item = &TicketKey> {
        [&self.current, &self.next].into_iter().chain(&self.previous)
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TicketKey").finish_non_exhaustive()
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("since_ms", &self.since_ms).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for TicketKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            previous: Option<TicketKey>,
            current: TicketKey,
            next: TicketKey,
            since_ms: u64,
        }
        // What serde says of a field that is wrong shows what stands in it, which may be a key.
        let Fields { previous, current, next, since_ms } =
            Fields::deserialize(from).map_err(|_| {
                serde::de::Error::custom(
                    "expected previous, current, next, each 48 bytes in hex, and since_ms",
                )
            })?;
        let keys = Self { previous, current, next, since_ms };
        let names: BTreeSet<_> = keys.all().map(TicketKey::name).collect();
        match names.len() == keys.all().count() {
            true => Ok(keys),
            // One would seal, and the other one open.
            false => Err(serde::de::Error::custom("two keys have one name")),
        }
    }
}

impl Serialize for TicketKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut text =
            Zeroizing::new(String::with_capacity(2 * (TICKET_NAME_BYTES + TICKET_SECRET_BYTES)));
        for byte in self.name.iter().chain(self.secret.iter()) {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(digit), 16));
            }
        }
        to.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for TicketKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom("a key is not 48 bytes in hex");
        let text = Zeroizing::new(String::deserialize(from)?);
        read(&text).ok_or_else(wrong)
    }
}

fn read(text: &str) -> Option<TicketKey> {
    let mut name = [0; TICKET_NAME_BYTES];
    let mut secret = Zeroizing::new([0; TICKET_SECRET_BYTES]);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != TICKET_NAME_BYTES + TICKET_SECRET_BYTES {
        return None;
    }
    for (byte, [high, low]) in name.iter_mut().chain(secret.iter_mut()).zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
    }
    Some(TicketKey { name, secret })
}

#[cfg(test)]
mod tests {
    use super::super::record::{decode, encode};
    use super::*;

    fn key(number: u8) -> TicketKey {
        TicketKey::new([number; TICKET_NAME_BYTES], Zeroizing::new([0xa0 + number; 32]))
    }

    fn keys() -> TicketKeys {
        TicketKeys { previous: None, current: key(1), next: key(2), since_ms: 7 }
    }

    #[test]
    fn keys_read_as_they_are_written_and_never_show_their_secrets() {
        for keys in [keys(), keys().rotated(key(3), 8)] {
            assert_eq!(decode::<TicketKeys>(&encode(&keys)).unwrap(), keys);
            let shown = format!("{keys:?} {:?}", keys.current);
            assert!(!shown.contains("a1") && !shown.contains("161"), "{shown}");
        }
    }

    #[test]
    fn a_period_goes_over_into_the_next_one() {
        let second = keys().rotated(key(3), 8);
        assert_eq!(second.previous, Some(key(1)));
        assert_eq!((&second.current, &second.next, second.since_ms), (&key(2), &key(3), 8));
        let third = second.rotated(key(4), 9);
        assert_eq!(third.all().collect::<Vec<_>>(), [&key(3), &key(4), &key(2)]);
        assert_eq!((third.age_ms(19), third.age_ms(0)), (10, 0));
    }

    #[test]
    fn what_is_said_of_a_bad_record_does_not_show_a_secret() {
        let good = String::from_utf8(encode(&keys()).to_vec()).unwrap();
        let secret = "a1".repeat(32);
        for (bad, said) in [
            (good.replace("a1a1", "a1"), "expected"),
            (good.replace("a1a1", "xya1"), "expected"),
            (good.replace("a1a1", "äa1"), "expected"),
            (good.replace("\"since_ms\":7", &format!("\"since_ms\":\"{secret}\"")), "expected"),
            (good.replace("\"current\"", "\"other\""), "expected"),
            (format!("\"{secret}\""), "expected"),
            (good.replace(&"02".repeat(16), &"01".repeat(16)), "one name"),
        ] {
            assert_ne!(bad, good);
            let error = decode::<TicketKeys>(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("a1a1"), "{error}");
        }
    }
}
