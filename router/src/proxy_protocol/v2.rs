//! Version 2: a signature, four bytes of what follows, addresses, and extensions (TLVs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{BadHeader, Ends, Header, Introduction, Parsed};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;

/// What may follow the fixed part. Extensions may hold a client's certificate names; more than
/// this nobody sends.
pub(super) const REST_BYTES_MAX: usize = 4096;

/// The extension that names the protocol that was agreed on.
const TLV_ALPN: u8 = 0x01;
/// The extension that names the host that was asked for.
const TLV_AUTHORITY: u8 = 0x02;
/// The extension that is a checksum over the whole header, with zeros in its place.
const TLV_CRC32C: u8 = 0x03;
const TLV_HEAD_BYTES: usize = 3;

/// The longest name that is written: TLS has none that is longer, and of DNS neither. A longer
/// one is left out.
const NAME_BYTES_MAX: usize = 255;

const VERSION_LOCAL: u8 = 0x20;
const VERSION_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const TCP4_BYTES: usize = 12;
const TCP6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, BadHeader> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Ok(Parsed::More) };
    let [.., command, family, high, low] = *fixed;
    if !matches!(command, VERSION_LOCAL | VERSION_PROXY) {
        return Err(BadHeader::Version);
    }
    let addresses_len = addresses_len(family)?;
    let rest_len = usize::from(u16::from_be_bytes([high, low]));
    if rest_len > REST_BYTES_MAX {
        return Err(BadHeader::Length);
    }
    let len = FIXED_BYTES + rest_len;
    let Some(header) = bytes.get(..len) else { return Ok(Parsed::More) };
    // Whatever the proxy says of its own connection is to be skipped.
    if command == VERSION_LOCAL {
        return Ok(Parsed::Header(Header { len, ends: None }));
    }
    let rest = &header[FIXED_BYTES..];
    let (addresses, _) = rest.split_at_checked(addresses_len).ok_or(BadHeader::Length)?;
    check_sum(header, FIXED_BYTES + addresses_len)?;
    let ends = match family {
        TCP4 => Some(ends::<4>(addresses, |ip| IpAddr::from(Ipv4Addr::from(ip)))),
        TCP6 => Some(ends::<16>(addresses, |ip| IpAddr::from(Ipv6Addr::from(ip)))),
        _ => None,
    };
    Ok(Parsed::Header(Header { len, ends }))
}

/// How many bytes the addresses of a family and transport have.
fn addresses_len(family: u8) -> Result<usize, BadHeader> {
    match (family >> 4, family & 0xf) {
        (0, 0..=2) => Ok(0),
        (1, 0..=2) => Ok(TCP4_BYTES),
        (2, 0..=2) => Ok(TCP6_BYTES),
        (3, 0..=2) => Ok(UNIX_BYTES),
        _ => Err(BadHeader::Family),
    }
}

/// Two addresses of `N` bytes, then two ports.
fn ends<const N: usize>(addresses: &[u8], ip: fn([u8; N]) -> IpAddr) -> Ends {
    let at = |start: usize| -> [u8; N] {
        addresses[start..start + N].try_into().expect("a range of N has N")
    };
    let port = |start: usize| u16::from_be_bytes([addresses[start], addresses[start + 1]]);
    Ends {
        source: SocketAddr::new(ip(at(0)), port(2 * N)),
        destination: SocketAddr::new(ip(at(N)), port(2 * N + 2)),
    }
}

/// Walks the extensions from `at` on; one of them may be the checksum.
fn check_sum(header: &[u8], mut at: usize) -> Result<(), BadHeader> {
    while at < header.len() {
        let head = header.get(at..at + TLV_HEAD_BYTES).ok_or(BadHeader::Length)?;
        let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let start = at + TLV_HEAD_BYTES;
        let value = header.get(start..start + len).ok_or(BadHeader::Length)?;
        if head[0] == TLV_CRC32C {
            let expected: [u8; 4] = value.try_into().map_err(|_| BadHeader::Length)?;
            let before = crc32c(!0, &header[..start]);
            let sum = !crc32c(crc32c(before, &[0; 4]), &header[start + len..]);
            if sum != u32::from_be_bytes(expected) {
                return Err(BadHeader::Checksum);
            }
        }
        at = start + len;
    }
    Ok(())
}

/// RFC 3720 §12.1, bit by bit: a header is small and comes once a connection.
fn crc32c(start: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(start, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            let carry = if sum & 1 == 1 { POLYNOMIAL } else { 0 };
            (sum >> 1) ^ carry
        })
    })
}

pub(super) fn write(of: &Introduction<'_>, out: &mut Vec<u8>) {
    let (ends, start) = (&of.ends, out.len());
    out.extend_from_slice(SIGNATURE);
    let family = if ends.source.is_ipv4() { TCP4 } else { TCP6 };
    out.extend_from_slice(&[VERSION_PROXY, family, 0, 0]);
    for addr in [ends.source, ends.destination] {
        match addr.ip() {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    for addr in [ends.source, ends.destination] {
        out.extend_from_slice(&addr.port().to_be_bytes());
    }
    for (kind, value) in [(TLV_ALPN, of.alpn), (TLV_AUTHORITY, of.authority.map(str::as_bytes))] {
        if let Some(value) = value.filter(|value| value.len() <= NAME_BYTES_MAX) {
            write_tlv(kind, value, out);
        }
    }
    write_tlv(TLV_CRC32C, &[0; 4], out);
    let rest = u16::try_from(out.len() - start - FIXED_BYTES).expect("addresses and three names");
    out[start + FIXED_BYTES - 2..start + FIXED_BYTES].copy_from_slice(&rest.to_be_bytes());
    let sum = !crc32c(!0, &out[start..]);
    let place = out.len() - 4;
    out[place..].copy_from_slice(&sum.to_be_bytes());
}

fn write_tlv(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(value.len()).expect("a name or a checksum");
    out.push(kind);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 3720 §B.4.
        for (bytes, sum) in [
            (&[0_u8; 32][..], 0x8a91_36aa_u32),
            (&[0xff; 32], 0x62a8_ab43),
            (b"123456789", 0xe306_9283),
        ] {
            assert_eq!(!crc32c(!0, bytes), sum);
        }
    }
}
