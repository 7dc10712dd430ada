use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::tls::provider;

/// What a client of rustls says first.
fn said(name: &str, alpn: &[&str]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The content of one record.
fn message(record: &[u8]) -> Vec<u8> {
    record[RECORD_HEAD_BYTES..].to_vec()
}

/// A message in records of at most `size`.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let len = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[RECORD_HANDSHAKE, 3, 1], &len[..], part].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

fn with_len<const N: usize>(bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - N..], bytes].concat()
}

/// A message of TLS 1.2 with these extensions, as they stand.
fn hello(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = [&[3, 3][..], &[7; 32], &[0], &with_len::<2>(&[0x13, 1]), &[1, 0]].concat();
    body.extend(extensions.map(with_len::<2>).unwrap_or_default());
    [&[MESSAGE_CLIENT_HELLO][..], &with_len::<3>(&body)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_len::<2>(content)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    let entry = [&[NAME_KIND_HOST][..], &with_len::<2>(name)].concat();
    extension(EXTENSION_SERVER_NAME, &with_len::<2>(&entry))
}

fn asked(extensions: Option<&[u8]>) -> Result<Hello, BadHello> {
    read(&records(&hello(extensions), 1 << 14))
}

fn whole(name: &str) -> Hello {
    Hello::Whole(Some(name.into()))
}

#[test]
fn the_host_of_a_client_is_found_whatever_else_it_offers() {
    assert_eq!(read(&said("DB.example.org", &[])), Ok(whole("db.example.org")));
    assert_eq!(read(&said("a.test", &["h2", "http/1.1"])), Ok(whole("a.test")));
    assert_eq!(read(&said("192.0.2.7", &[])), Ok(Hello::Whole(None)), "an address is no host");
    assert_eq!(asked(None), Ok(Hello::Whole(None)), "a client without extensions");
    let odd = [extension(0x0a0a, b""), extension(0xfe0d, &[9; 200]), server_name(b"A.test.")];
    assert_eq!(asked(Some(&odd.concat())), Ok(whole("a.test")));
}

#[test]
fn it_may_come_in_any_pieces_and_records() {
    let message = message(&said("a.test", &["h2"]));
    for size in [1, 2, 3, 4, 5, 100, message.len() - 1, message.len()] {
        let mut bytes = records(&message, size);
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(Hello::More), "{end} bytes in records of {size}");
        }
        bytes.extend_from_slice(b"\x17\x03\x03 what follows is not looked at");
        assert_eq!(read(&bytes), Ok(whole("a.test")));
    }
}

#[test]
fn what_is_no_first_message_is_told_apart() {
    let bad = |bytes: &[u8]| read(bytes).unwrap_err();
    assert_eq!(bad(b"GET / HTTP/1.1\r\n"), BadHello::NotTls);
    assert_eq!(bad(&[RECORD_HANDSHAKE, 2]), BadHello::NotTls);
    assert_eq!(bad(&[RECORD_HANDSHAKE, 3, 1, 0, 0]), BadHello::Malformed);
    assert_eq!(bad(&[RECORD_HANDSHAKE, 3, 1, 0xff, 0xff]), BadHello::Malformed);
    assert_eq!(bad(&records(&[2, 0, 0, 0], 4)), BadHello::Unexpected);
    assert_eq!(bad(&records(&[MESSAGE_CLIENT_HELLO, 1, 0, 0], 4)), BadHello::TooLarge);
    let endless = records(&[&[MESSAGE_CLIENT_HELLO, 0, 0x3f, 0xff][..], &[0; 16_000]].concat(), 1);
    assert_eq!(bad(&endless[..HELLO_BYTES_MAX]), BadHello::TooLarge);
    assert_eq!(BadHello::Malformed.alert(), Some([21, 3, 3, 0, 2, 2, 50]));
    assert_eq!(BadHello::NotTls.alert(), None);
}

#[test]
fn a_name_that_could_be_read_in_two_ways_is_refused() {
    let two_kinds = [&[NAME_KIND_HOST][..], &with_len::<2>(b"a.test")].concat().repeat(2);
    for extensions in [
        [server_name(b"a.test"), server_name(b"b.test")].concat(),
        extension(EXTENSION_SERVER_NAME, &with_len::<2>(&two_kinds)),
        extension(EXTENSION_SERVER_NAME, b""),
        server_name(b""),
        server_name(b"a\0.test"),
        server_name(b"a/test"),
        server_name(&[b'a'; 300]),
        [server_name(b"a.test"), vec![0]].concat(),
    ] {
        assert_eq!(asked(Some(&extensions)), Err(BadHello::Malformed), "{extensions:?}");
    }
    let mut longer = hello(Some(&server_name(b"a.test")));
    longer.push(0);
    longer[3] += 1;
    assert_eq!(read(&records(&longer, 1 << 14)), Err(BadHello::Malformed));
}

/// What rustls reads, if it takes the message.
fn of_rustls(bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_owned));
        }
    }
    None
}

proptest! {
    #[test]
    fn bytes_never_panic_and_a_prefix_of_what_is_taken_is_too(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        is_record in any::<bool>(),
    ) {
        if is_record && bytes.len() > 5 {
            bytes[..6].copy_from_slice(&[RECORD_HANDSHAKE, 3, 1, 0, 200, MESSAGE_CLIENT_HELLO]);
        }
        let all = read(&bytes);
        if all == Ok(Hello::More) || matches!(all, Ok(Hello::Whole(_))) {
            for end in 0..bytes.len() {
                prop_assert!(read(&bytes[..end]).is_ok());
            }
        }
    }

    /// What rustls takes with a name has the same name for us: nobody gets to an instance by a
    /// name that another reads differently.
    #[test]
    fn a_changed_message_is_read_as_rustls_reads_it(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        size in 1usize..600,
    ) {
        let mut message = message(&said("a.test", &["h2"]));
        for (at, value) in changes {
            let at = at.index(message.len());
            message[at] = value;
        }
        let bytes = records(&message, size);
        if let Some(name @ Some(_)) = of_rustls(&bytes) {
            prop_assert_eq!(read(&bytes), Ok(Hello::Whole(name.map(Into::into))));
        }
    }
}
