use proptest::prelude::*;

use super::*;

fn ends(source: &str, destination: &str) -> Option<Ends> {
    Some(Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

fn check(bytes: &[u8], expected: Result<Parsed, BadHeader>) {
    assert_eq!(parse(bytes), expected, "{}", bytes.escape_ascii());
}

fn whole(bytes: &[u8], ends: Option<Ends>) {
    let header = Ok(Parsed::Header(Header { len: bytes.len(), ends }));
    check(bytes, header);
    check(&[bytes, b"GET / HTTP/1.1\r\n"].concat(), header);
    for end in 0..bytes.len() {
        check(&bytes[..end], Ok(Parsed::More));
    }
}

#[test]
fn a_line_names_both_ends() {
    whole(
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
        ends("192.0.2.1:56324", "192.0.2.2:443"),
    );
    whole(
        b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
        ends("[2001:db8::1]:1", "[2001:db8::2]:65535"),
    );
    whole(b"PROXY UNKNOWN\r\n", None);
    whole(b"PROXY UNKNOWN what ever\r\n", None);
}

#[test]
fn a_line_that_is_not_as_it_should_be_is_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n",
        "PROXY \r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 056324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 443\r\n",
    ] {
        check(line.as_bytes(), Err(BadHeader::Line));
    }
    check(&[b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat(), Err(BadHeader::Line));
    check(b"PROXY TCP4 \xff\r\n", Err(BadHeader::Line));
}

#[test]
fn what_does_not_begin_as_a_header_is_none() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXX", b"POST", b"\r\n\r\nGET", b"\0"] {
        check(bytes, Ok(Parsed::Absent));
    }
    for bytes in [&b""[..], b"P", b"PROXY", b"\r\n\r\n"] {
        check(bytes, Ok(Parsed::More));
    }
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, rest].concat()
}

const TCP4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn a_binary_header_names_both_ends_and_its_extensions_are_skipped() {
    let both = ends("192.0.2.1:56324", "192.0.2.2:443");
    whole(&binary(0x21, 0x11, &TCP4), both);
    whole(&binary(0x21, 0x11, &[&TCP4[..], &[0xea, 0, 2, 1, 2, 0x04, 0, 0]].concat()), both);
    let mut v6 = [0; 36];
    (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 7, 80);
    whole(&binary(0x21, 0x21, &v6), ends("[::1]:7", "[::2]:80"));
}

#[test]
fn a_connection_of_the_proxy_itself_has_no_client() {
    whole(&binary(0x20, 0x00, b""), None);
    whole(&binary(0x20, 0x11, b"anything"), None);
    whole(&binary(0x21, 0x00, b""), None);
    whole(&binary(0x21, 0x12, &TCP4), None);
    whole(&binary(0x21, 0x31, &[0; 216]), None);
}

#[test]
fn a_binary_header_that_is_not_as_it_should_be_is_refused() {
    for (header, error) in [
        (binary(0x11, 0x11, &TCP4), BadHeader::Version),
        (binary(0x22, 0x11, &TCP4), BadHeader::Version),
        (binary(0x21, 0x41, &TCP4), BadHeader::Family),
        (binary(0x21, 0x13, &TCP4), BadHeader::Family),
        (binary(0x21, 0x11, &TCP4[..11]), BadHeader::Length),
        (binary(0x21, 0x21, &TCP4), BadHeader::Length),
        (binary(0x21, 0x11, &[0; 5000]), BadHeader::Length),
        (binary(0x21, 0x11, &[&TCP4[..], &[1, 0]].concat()), BadHeader::Length),
        (binary(0x21, 0x11, &[&TCP4[..], &[1, 0, 2, 0]].concat()), BadHeader::Length),
        (binary(0x21, 0x11, &[&TCP4[..], &[3, 0, 1, 0]].concat()), BadHeader::Length),
        (binary(0x21, 0x11, &[&TCP4[..], &[3, 0, 4, 1, 2, 3, 4]].concat()), BadHeader::Checksum),
    ] {
        check(&header, Err(error));
    }
}

#[test]
fn a_checksum_that_is_right_is_accepted() {
    // Computed apart from this code.
    let sum = 0x4334_8156_u32.to_be_bytes();
    let rest = [&TCP4[..], &[3, 0, 4], &sum, &[4, 0, 1, 9]].concat();
    whole(&binary(0x21, 0x11, &rest), ends("192.0.2.1:56324", "192.0.2.2:443"));
}

#[test]
fn ends_of_two_families_are_both_ipv6() {
    let of = Introduction::of(ends("192.0.2.1:7", "[2001:db8::2]:80").unwrap());
    let mut line = Vec::new();
    write(ProxyVersion::V1, &of, &mut line);
    assert_eq!(line, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 7 80\r\n");
}

#[test]
fn what_is_known_of_a_client_is_in_extensions_behind_its_addresses() {
    let both = ends("192.0.2.1:56324", "192.0.2.2:443").unwrap();
    let of = Introduction { ends: both, authority: Some("a.test"), alpn: Some(b"h2") };
    // Appended to what is there already.
    let mut bytes = b"x".to_vec();
    write(ProxyVersion::V2, &of, &mut bytes);
    let extensions = b"\x01\0\x02h2\x02\0\x06a.test\x03\0\x04";
    let rest = [&TCP4[..], extensions, &bytes[bytes.len() - 4..]].concat();
    assert_eq!(bytes[1..], binary(0x21, 0x11, &rest));
    whole(&bytes[1..], Some(both));
    // A change anywhere is found out, unless it makes the checksum something else.
    let kind_of_checksum = bytes.len() - 1 - 7;
    for at in (16..bytes.len() - 1).filter(|at| *at != kind_of_checksum) {
        let mut broken = bytes[1..].to_vec();
        broken[at] ^= 1;
        assert_ne!(parse(&broken), parse(&bytes[1..]), "byte {at}");
    }
    let long = "a".repeat(300);
    let mut bytes = Vec::new();
    let of = Introduction { authority: Some(&long), ..Introduction::of(both) };
    write(ProxyVersion::V2, &of, &mut bytes);
    assert_eq!(bytes.len(), 16 + 12 + 7, "a name that nobody takes is left out");
}

#[test]
fn the_header_of_a_connection_of_our_own_names_nobody() {
    for version in ProxyVersion::ALL {
        whole(version.of_our_own(), None);
    }
}

fn any_ends() -> impl Strategy<Value = Ends> {
    let addr = any::<(IpAddr, u16)>().prop_map(SocketAddr::from);
    (addr.clone(), addr).prop_map(|(source, destination)| Ends { source, destination })
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(
        ends in any_ends(),
        authority in proptest::option::of("[a-z0-9.-]{0,300}"),
        alpn in proptest::option::of("[a-z0-9./]{0,20}"),
        rest in any::<Vec<u8>>(),
    ) {
        let alpn = alpn.as_deref().map(str::as_bytes);
        let of = Introduction { ends, authority: authority.as_deref(), alpn };
        for version in ProxyVersion::ALL {
            let mut bytes = Vec::new();
            write(version, &of, &mut bytes);
            let len = bytes.len();
            for end in 0..len {
                prop_assert_eq!(parse(&bytes[..end]), Ok(Parsed::More));
            }
            bytes.extend_from_slice(&rest);
            let header = Header { len, ends: Some(same_family(ends)) };
            prop_assert_eq!(parse(&bytes), Ok(Parsed::Header(header)));
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic_and_what_was_told_stays_so(
        version in any::<bool>(),
        tail in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let signature = if version { v1::SIGNATURE } else { v2::SIGNATURE };
        let bytes = [signature, &tail].concat();
        let at_last = parse(&bytes);
        if let Ok(Parsed::Header(header)) = at_last {
            prop_assert!(header.len <= bytes.len() && header.len <= HEADER_BYTES_MAX);
        }
        for end in 0..bytes.len() {
            // Never an answer that more bytes change.
            let early = parse(&bytes[..end]);
            prop_assert!(early == Ok(Parsed::More) || early == at_last);
        }
    }
}
