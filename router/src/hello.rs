//! The first message of a TLS client, read without ending TLS: which host it asks for. Bytes in,
//! an answer out; what to do with it is somebody else's matter.
//!
//! Only the way to the name is read (RFC 8446 §4.1.2 and §5.1, RFC 6066 §3). Versions, suites and
//! whatever else a client may offer are between it and the instance, so old and new ones pass.

/// The largest first message that is taken, with the heads of its records: with keys of every kind
/// and a long ticket it is a tenth of it.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

const RECORD_HEAD_BYTES: usize = 5;
const RECORD_HANDSHAKE: u8 = 22;
/// RFC 8446 §5.1: so much of a message one record may hold.
const FRAGMENT_BYTES_MAX: usize = 1 << 14;
const MESSAGE_HEAD_BYTES: usize = 4;
const MESSAGE_CLIENT_HELLO: u8 = 1;
/// Version and random.
const FIXED_BYTES: usize = 2 + 32;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_KIND_HOST: u8 = 0;
/// RFC 1035 §2.3.4, and no host of a route is longer.
const NAME_BYTES_MAX: usize = 255;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// It takes more of them to tell.
    More,
    /// A whole first message. The host is in lower case, without a dot at its end.
    Whole(Option<Box<str>>),
}

/// Why bytes are no first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// Something else is spoken.
    #[error("it is not TLS")]
    NotTls,
    /// Another message comes first.
    #[error("its first message is another one")]
    Unexpected,
    /// A length does not fit in what it is the length of, or the name is none.
    #[error("its first message is malformed")]
    Malformed,
    /// It is beyond [`HELLO_BYTES_MAX`].
    #[error("its first message is too large")]
    TooLarge,
}

impl BadHello {
    /// What the client is told (RFC 8446 §6.2); nothing, if it would not understand.
    pub fn alert(self) -> Option<[u8; 7]> {
        match self {
            Self::NotTls => None,
            Self::Unexpected => Some(alert(UNEXPECTED_MESSAGE)),
            Self::Malformed | Self::TooLarge => Some(alert(DECODE_ERROR)),
        }
    }
}

const UNEXPECTED_MESSAGE: u8 = 10;
const DECODE_ERROR: u8 = 50;
/// RFC 6066 §3: the host is not served here.
pub(crate) const UNRECOGNIZED_NAME: u8 = 112;

/// A fatal alert before there are keys.
pub(crate) const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// Reads the first message at the start of a connection.
///
/// # Errors
/// When it cannot become one, whatever follows.
pub fn read(bytes: &[u8]) -> Result<Hello, BadHello> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        match fragment(rest)? {
            None if bytes.len() >= HELLO_BYTES_MAX => return Err(BadHello::TooLarge),
            None => return Ok(Hello::More),
            Some((fragment, after)) => {
                // Mostly all of it is in one record, and is read where it lies.
                if message.is_empty()
                    && let Some(body) = body(fragment)?
                {
                    return host(body).map(Hello::Whole);
                }
                message.extend_from_slice(fragment);
                if let Some(body) = body(&message)? {
                    return host(body).map(Hello::Whole);
                }
                rest = after;
            }
        }
    }
}

type Halves<'b> = (&'b [u8], &'b [u8]);

/// The content of the next record, and what follows it.
fn fragment(bytes: &[u8]) -> Result<Option<Halves<'_>>, BadHello> {
    match bytes {
        [] => return Ok(None),
        [RECORD_HANDSHAKE, major, ..] if *major != 3 => return Err(BadHello::NotTls),
        [RECORD_HANDSHAKE, ..] => {}
        _ => return Err(BadHello::NotTls),
    }
    let Some((head, rest)) = bytes.split_at_checked(RECORD_HEAD_BYTES) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
    // An empty one is nothing to wait for, and of such there may be any number.
    if len == 0 || len > FRAGMENT_BYTES_MAX {
        return Err(BadHello::Malformed);
    }
    Ok(rest.split_at_checked(len))
}

/// The content of the message, once all of it is there.
fn body(message: &[u8]) -> Result<Option<&[u8]>, BadHello> {
    match message.first() {
        Some(&MESSAGE_CLIENT_HELLO) => {}
        Some(_) => return Err(BadHello::Unexpected),
        None => return Ok(None),
    }
    let Some((head, rest)) = message.split_at_checked(MESSAGE_HEAD_BYTES) else { return Ok(None) };
    let len = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
    if len > HELLO_BYTES_MAX {
        return Err(BadHello::TooLarge);
    }
    Ok(rest.get(..len))
}

fn host(body: &[u8]) -> Result<Option<Box<str>>, BadHello> {
    let mut body = Reader(body);
    body.take(FIXED_BYTES)?;
    let _session = body.list::<1>()?;
    let _suites = body.list::<2>()?;
    let _compressions = body.list::<1>()?;
    // RFC 5246 §7.4.1.2: there may be no extensions at all.
    if body.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Reader(body.list::<2>()?);
    if !body.0.is_empty() {
        return Err(BadHello::Malformed);
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number::<2>()?;
        let content = extensions.list::<2>()?;
        if kind == usize::from(EXTENSION_SERVER_NAME) {
            // Two could be read as one by us and as the other by the instance.
            if found.is_some() {
                return Err(BadHello::Malformed);
            }
            found = Some(name(content)?);
        }
    }
    Ok(found)
}

/// The one host of an extension that names it.
fn name(extension: &[u8]) -> Result<Box<str>, BadHello> {
    let mut extension = Reader(extension);
    let mut names = Reader(extension.list::<2>()?);
    let kind = names.number::<1>()?;
    let name = names.list::<2>()?;
    // RFC 6066 §3: not more than one of a kind, and there is no other kind.
    if kind != usize::from(NAME_KIND_HOST) || !names.0.is_empty() || !extension.0.is_empty() {
        return Err(BadHello::Malformed);
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(is_host) {
        return Err(BadHello::Malformed);
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect::<String>().into())
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], BadHello> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BadHello::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Result<usize, BadHello> {
        Ok(self.take(N)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Bytes behind their number, which has `N` bytes.
    fn list<const N: usize>(&mut self) -> Result<&'b [u8], BadHello> {
        let len = self.number::<N>()?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests;
