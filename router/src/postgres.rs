//! What a client of PostgreSQL says before TLS: it asks whether there is any, and begins after a
//! yes (the protocol's "SSL Session Encryption"). A listener of TLS answers for the instance, and
//! where TLS is passed on, asks the instance in turn. Nothing else of the protocol is known here.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::buffer::Buffer;
use crate::stream::Stream;

/// The length of the message and its code, 1234.5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// The same with 1234.5680: whether there is encryption by GSSAPI.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

const YES: u8 = b'S';
const NO: u8 = b'N';

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing of the kind.
    Nothing,
    /// It takes more of them to tell.
    More,
    /// Whether there is TLS.
    Tls,
    /// Whether there is something that there is not.
    Gss,
}

/// Reads what a client asks at the start of a connection. It waits for the answer: with more
/// behind it, it is none. Somebody else may have put that there, to be taken for what comes by
/// TLS (CVE-2021-23214).
pub(crate) fn asked(bytes: &[u8]) -> Asked {
    match bytes {
        [] => Asked::Nothing,
        _ if bytes == SSL_REQUEST => Asked::Tls,
        _ if bytes == GSS_REQUEST => Asked::Gss,
        _ if SSL_REQUEST.starts_with(bytes) || GSS_REQUEST.starts_with(bytes) => Asked::More,
        _ => Asked::Nothing,
    }
}

/// Takes what the client has asked out of `input` and answers it; whether TLS follows. Fails when
/// the client takes no answer: it has gone.
pub(crate) fn answer(asked: Asked, input: &mut Buffer, client: &Stream) -> io::Result<bool> {
    let is_tls = asked == Asked::Tls;
    input.consume(input.len());
    // A new socket has room for a byte.
    let tcp = client.tcp().ok_or(io::ErrorKind::Unsupported)?;
    tcp.try_write(&[if is_tls { YES } else { NO }])?;
    Ok(is_tls)
}

/// Asks an instance for TLS, which has to say yes.
pub(crate) async fn ask(instance: &mut Stream) -> io::Result<()> {
    instance.write_all(&SSL_REQUEST).await?;
    match instance.read_u8().await? {
        YES => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the instance has no TLS")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_known_when_it_is_whole_and_alone() {
        for (question, expected) in [(SSL_REQUEST, Asked::Tls), (GSS_REQUEST, Asked::Gss)] {
            for end in 1..8 {
                assert_eq!(asked(&question[..end]), Asked::More);
            }
            assert_eq!(asked(&question), expected);
            assert_eq!(asked(&[&question[..], b"x"].concat()), Asked::Nothing);
        }
        // A startup message without TLS, a cancel request, TLS.
        for other in [&[0, 0, 0, 9][..], &[0, 0, 0, 16, 4, 210, 22, 46], &[22, 3, 1], b""] {
            assert_eq!(asked(other), Asked::Nothing);
        }
    }
}
