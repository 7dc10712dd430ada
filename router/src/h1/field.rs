//! The header names that mean something to an intermediary, and lists inside values.
//! Every other name is `Other` and passes through untouched.

/// What a header name means to the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Nothing: end to end, unless a `Connection` header lists it.
    Other,
    /// End to end, and neither `Connection` nor a trailer section may touch it: what a message is,
    /// who asks and how it may be kept (RFC 9110 §6.5.1, §7.6.1).
    Protected,
    /// `Connection`
    Connection,
    /// `Keep-Alive`, `Proxy-Connection`, `Proxy-Authenticate`, `Proxy-Authorization`,
    /// `HTTP2-Settings`: for this hop only.
    Hop,
    /// `TE`
    Te,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Upgrade`
    Upgrade,
    /// `Content-Length`
    ContentLength,
    /// `Host`
    Host,
    /// `Expect`
    Expect,
    /// `Max-Forwards`
    MaxForwards,
    /// `Date`
    Date,
    /// `Via`: who has passed a message on; each adds itself, nobody takes another out.
    Via,
    /// `X-Request-Id`
    RequestId,
    /// `X-Request-Start`: when the first proxy of the way got the request.
    RequestStart,
    /// `Forwarded`
    Forwarded,
    /// `X-Forwarded-For`
    ForwardedFor,
    /// `X-Forwarded-Host`
    ForwardedHost,
    /// `X-Forwarded-Proto`
    ForwardedProto,
    /// `X-Forwarded-Port`
    ForwardedPort,
    /// `X-Real-IP` and any other `X-Forwarded-*`: believed from a trusted peer only.
    ForwardedOther,
    /// `Client-Cert` and `Client-Cert-Chain` (RFC 9440): whose connection it was.
    ClientCert,
}

const FORWARDED_PREFIX: &[u8; 12] = b"x-forwarded-";

/// Every name that means something, in lower case, but for the rest of `X-Forwarded-*`.
const KNOWN: &[(&[u8], Field)] = &[
    (b"te", Field::Te),
    (b"age", Field::Protected),
    (b"via", Field::Via),
    (b"host", Field::Host),
    (b"date", Field::Date),
    (b"vary", Field::Protected),
    (b"range", Field::Protected),
    (b"expect", Field::Expect),
    (b"cookie", Field::Protected),
    (b"upgrade", Field::Upgrade),
    (b"trailer", Field::Protected),
    (b"expires", Field::Protected),
    (b"warning", Field::Protected),
    (b"location", Field::Protected),
    (b"if-match", Field::Protected),
    (b"if-range", Field::Protected),
    (b"forwarded", Field::Forwarded),
    (b"x-real-ip", Field::ForwardedOther),
    (b"connection", Field::Connection),
    (b"keep-alive", Field::Hop),
    (b"client-cert", Field::ClientCert),
    (b"set-cookie", Field::Protected),
    (b"retry-after", Field::Protected),
    (b"x-request-id", Field::RequestId),
    (b"max-forwards", Field::MaxForwards),
    (b"content-type", Field::Protected),
    (b"authorization", Field::Protected),
    (b"cache-control", Field::Protected),
    (b"content-range", Field::Protected),
    (b"if-none-match", Field::Protected),
    (b"content-length", Field::ContentLength),
    (b"http2-settings", Field::Hop),
    (b"x-request-start", Field::RequestStart),
    (b"x-forwarded-for", Field::ForwardedFor),
    (b"proxy-connection", Field::Hop),
    (b"content-encoding", Field::Protected),
    (b"www-authenticate", Field::Protected),
    (b"x-forwarded-host", Field::ForwardedHost),
    (b"x-forwarded-port", Field::ForwardedPort),
    (b"transfer-encoding", Field::TransferEncoding),
    (b"x-forwarded-proto", Field::ForwardedProto),
    (b"if-modified-since", Field::Protected),
    (b"client-cert-chain", Field::ClientCert),
    (b"proxy-authenticate", Field::Hop),
    (b"proxy-authorization", Field::Hop),
    (b"if-unmodified-since", Field::Protected),
];

const SLOTS: usize = 128;

/// Where in [`KNOWN`] the name of each slot is, plus one; 0 for none.
const BY_SLOT: [u8; SLOTS] = {
    let mut slots = [0; SLOTS];
    let mut index = 0;
    while index < KNOWN.len() {
        let slot = slot(KNOWN[index].0);
        assert!(slots[slot] == 0, "two names share a slot: other factors are needed");
        index += 1;
        slots[slot] = index as u8;
    }
    slots
};

/// Whether a name is the known one in any case. A byte and its neighbour by 0x20 are one letter in
/// two cases, or else one of the two is a control byte, which no name has.
fn is_same(known: &[u8], name: &[u8]) -> bool {
    const CASE: u64 = u64::MAX / 255 * 0x20;
    let differ = |known: &[u8; 8], name: &[u8; 8]| {
        u64::from_ne_bytes(*known) != u64::from_ne_bytes(*name) | CASE
    };
    if known.len() != name.len() {
        return false;
    }
    // Eight bytes at a time, the last eight overlapping.
    match (known.last_chunk(), name.last_chunk()) {
        (Some(known_last), Some(name_last)) => {
            let (known, name) = (known.as_chunks().0, name.as_chunks().0);
            !differ(known_last, name_last) && !known.iter().zip(name).any(|(a, b)| differ(a, b))
        }
        _ => known.iter().zip(name).all(|(known, name)| *known == name | 0x20),
    }
}

/// A hash that no two known names share. Length, first and last letter but one tell them apart;
/// the factors were found by trying.
const fn slot(name: &[u8]) -> usize {
    let len = name.len();
    if len < 2 {
        return 0;
    }
    (len * 185 + (name[0] & 0x1f) as usize * 84 + (name[len - 2] & 0x1f) as usize * 196) % SLOTS
}

impl Field {
    /// The field of a name in any case. Each header line of each message asks.
    pub(super) fn of(name: &[u8]) -> Field {
        if let Some(index) = usize::from(BY_SLOT[slot(name)]).checked_sub(1) {
            let (known, field) = KNOWN[index];
            if is_same(known, name) {
                return field;
            }
        }
        match name.get(..FORWARDED_PREFIX.len()) {
            Some(start) if start.eq_ignore_ascii_case(FORWARDED_PREFIX) => Field::ForwardedOther,
            _ => Field::Other,
        }
    }

    /// A trailer of this name may be sent on.
    pub(super) const fn may_trail(self) -> bool {
        matches!(self, Field::Other)
    }
}

/// A name that a CGI-like back end cannot tell from one with dashes.
pub(crate) fn is_odd_name(name: &[u8]) -> bool {
    // Eight bytes at a time, the last eight overlapping: names are too short for memchr to pay.
    match name.last_chunk::<8>() {
        Some(last) => name.as_chunks::<8>().0.iter().any(has_odd_byte) || has_odd_byte(last),
        None => name.iter().any(|byte| matches!(byte, b'_' | b'.')),
    }
}

fn has_odd_byte(bytes: &[u8; 8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_ne_bytes(*bytes);
    // Nonzero if some byte is zero: only that one borrows into its top bit.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    zero(word ^ (ONES * b'_' as u64)) | zero(word ^ (ONES * b'.' as u64)) != 0
}

/// A byte that a token may have (RFC 9110 §5.6.2).
pub(super) const fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
        | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// A byte that a field value may have (RFC 9110 §5.5).
pub(super) const fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// The members of a comma list, trimmed; empty ones too, so that a caller may refuse them.
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// A number of decimal digits and nothing else (RFC 9110 §8.6 allows no sign, space or list).
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Appends a number in decimal; `write!` costs several times as much.
pub(super) fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_found_in_any_case() {
        let known: &[(&str, Field)] = &[
            ("TE", Field::Te),
            ("Via", Field::Via),
            ("Age", Field::Protected),
            ("Host", Field::Host),
            ("Date", Field::Date),
            ("Vary", Field::Protected),
            ("Range", Field::Protected),
            ("Expect", Field::Expect),
            ("Cookie", Field::Protected),
            ("Upgrade", Field::Upgrade),
            ("Trailer", Field::Protected),
            ("Expires", Field::Protected),
            ("Warning", Field::Protected),
            ("Location", Field::Protected),
            ("If-Match", Field::Protected),
            ("If-Range", Field::Protected),
            ("Forwarded", Field::Forwarded),
            ("X-Real-IP", Field::ForwardedOther),
            ("Connection", Field::Connection),
            ("Keep-Alive", Field::Hop),
            ("Set-Cookie", Field::Protected),
            ("Retry-After", Field::Protected),
            ("X-Request-Id", Field::RequestId),
            ("Max-Forwards", Field::MaxForwards),
            ("Content-Type", Field::Protected),
            ("Authorization", Field::Protected),
            ("Cache-Control", Field::Protected),
            ("Content-Range", Field::Protected),
            ("If-None-Match", Field::Protected),
            ("Content-Length", Field::ContentLength),
            ("HTTP2-Settings", Field::Hop),
            ("X-Request-Start", Field::RequestStart),
            ("X-Forwarded-For", Field::ForwardedFor),
            ("Proxy-Connection", Field::Hop),
            ("Content-Encoding", Field::Protected),
            ("WWW-Authenticate", Field::Protected),
            ("X-Forwarded-Host", Field::ForwardedHost),
            ("X-Forwarded-Port", Field::ForwardedPort),
            ("Transfer-Encoding", Field::TransferEncoding),
            ("X-Forwarded-Proto", Field::ForwardedProto),
            ("If-Modified-Since", Field::Protected),
            ("Proxy-Authenticate", Field::Hop),
            ("Proxy-Authorization", Field::Hop),
            ("If-Unmodified-Since", Field::Protected),
            ("X-Forwarded-Prefix", Field::ForwardedOther),
            ("X-Forwarded-", Field::ForwardedOther),
            ("Accept", Field::Other),
            ("X-Anything", Field::Other),
            ("", Field::Other),
        ];
        for (name, field) in known {
            assert_eq!(Field::of(name.as_bytes()), *field, "{name}");
            assert_eq!(Field::of(name.to_ascii_lowercase().as_bytes()), *field, "{name}");
            assert_eq!(Field::of(name.to_ascii_uppercase().as_bytes()), *field, "{name}");
        }
    }

    #[test]
    fn an_odd_name_is_seen_wherever_its_byte_stands() {
        for len in 1..30 {
            let mut name = vec![b'-'; len];
            assert!(!is_odd_name(&name), "{len}");
            for at in 0..len {
                for odd in *b"_." {
                    name[at] = odd;
                    assert!(is_odd_name(&name), "{len} {at}");
                }
                // The neighbours of the odd bytes are not odd.
                for even in *b"^`-/\x00\xff" {
                    name[at] = even;
                    assert!(!is_odd_name(&name), "{len} {at} {even}");
                }
                name[at] = b'-';
            }
        }
    }

    #[test]
    fn a_number_is_digits_and_nothing_else() {
        for (text, number) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("+5", None),
            ("-1", None),
            ("0x10", None),
            ("5 ", None),
            ("5,5", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), number, "{text:?}");
        }
    }

    #[test]
    fn a_number_is_written_as_the_standard_library_writes_it() {
        for number in [0, 7, 10, 8080, u64::from(u16::MAX), u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
