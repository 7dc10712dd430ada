//! What an instance is told of a client's certificate: `Client-Cert` and `Client-Cert-Chain`
//! (RFC 9440).

use rustls::pki_types::CertificateDer;

/// More than this of lines is not sent: with them a head would not fit into what most servers
/// take. Then the chain is left out.
const LINES_BYTES_MAX: usize = 12 * 1024;

/// The lines for a chain, leaf first.
pub(super) fn client_lines(chain: &[CertificateDer<'_>]) -> Box<[u8]> {
    let Some((leaf, issuers)) = chain.split_first() else { return Box::default() };
    let mut lines = Vec::new();
    lines.extend_from_slice(b"Client-Cert: ");
    push_bytes(&mut lines, leaf);
    lines.extend_from_slice(b"\r\n");
    let leaf_end = lines.len();
    for (at, issuer) in issuers.iter().enumerate() {
        lines.extend_from_slice(if at == 0 { b"Client-Cert-Chain: " } else { b", " });
        push_bytes(&mut lines, issuer);
    }
    if !issuers.is_empty() {
        lines.extend_from_slice(b"\r\n");
    }
    if lines.len() > LINES_BYTES_MAX {
        lines.truncate(leaf_end);
    }
    lines.into_boxed_slice()
}

/// A byte sequence of structured fields: base64 between colons (RFC 8941 §3.3.5).
fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push(b':');
    for group in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|at| u32::from(group.get(at).copied().unwrap_or(0)));
        let value = a << 16 | b << 8 | c;
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = DIGITS[(value >> shift & 63) as usize];
            out.push(if at > group.len() { b'=' } else { digit });
        }
    }
    out.push(b':');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        push_bytes(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn bytes_are_base64_between_colons() {
        // RFC 4648 §10.
        for (bytes, expected) in [
            ("", "::"),
            ("f", ":Zg==:"),
            ("fo", ":Zm8=:"),
            ("foo", ":Zm9v:"),
            ("foob", ":Zm9vYg==:"),
            ("foobar", ":Zm9vYmFy:"),
        ] {
            assert_eq!(encoded(bytes.as_bytes()), expected);
        }
        assert_eq!(encoded(&[0xfb, 0xff]), ":+/8=:");
    }

    #[test]
    fn a_chain_is_a_list_and_is_left_out_when_it_is_long() {
        let der = |bytes: &'static [u8]| CertificateDer::from(bytes);
        let lines = client_lines(&[der(b"foo"), der(b"f"), der(b"fo")]);
        let expected = b"Client-Cert: :Zm9v:\r\nClient-Cert-Chain: :Zg==:, :Zm8=:\r\n";
        assert_eq!(&*lines, expected);
        assert_eq!(&*client_lines(&[]), b"");
        let long = client_lines(&[der(b"foo"), CertificateDer::from(vec![0; LINES_BYTES_MAX])]);
        assert_eq!(&*long, b"Client-Cert: :Zm9v:\r\n");
    }
}
