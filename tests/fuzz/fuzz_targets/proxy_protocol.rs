//! Any bytes as a PROXY header: no panic, no answer that more bytes change, and what is read is
//! written and read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_discovery::model::ProxyVersion;
use portolan_router::proxy_protocol::{Header, Introduction, Parsed, parse, write};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for end in 0..bytes.len() {
        let part = parse(&bytes[..end]);
        assert!(part == Ok(Parsed::More) || part == whole);
    }
    let Ok(Parsed::Header(Header { len, ends: Some(ends) })) = whole else { return };
    assert!(len <= bytes.len());
    for version in ProxyVersion::ALL {
        let mut out = Vec::new();
        write(version, &Introduction::of(ends), &mut out);
        let again = Header { len: out.len(), ends: Some(ends) };
        assert_eq!(parse(&out), Ok(Parsed::Header(again)));
    }
});
