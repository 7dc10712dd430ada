//! Any bytes as a chunked body: no panic, the same result however they arrive, and what is relayed
//! holds the same content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_router::h1::{BodyFraming, BodyState, Limits, Reason};

/// The first byte chooses the side and how the rest is cut.
fn body(choice: u8) -> BodyState {
    let limits = Limits { chunk_extension_bytes_max: 16, trailer_bytes_max: 64, ..Limits::DEFAULT };
    if choice & 1 == 0 {
        BodyState::request(BodyFraming::Chunked, &limits)
    } else {
        BodyState::response(BodyFraming::Chunked, &limits)
    }
}

fn relayed(mut body: BodyState, bytes: &[u8], size: usize) -> Result<(Vec<u8>, bool), Reason> {
    let mut sent = Vec::new();
    for piece in bytes.chunks(size) {
        let progress = body.feed(piece)?;
        assert!(progress.forward <= progress.taken && progress.taken <= piece.len());
        sent.extend_from_slice(&piece[..progress.forward]);
        if progress.done {
            sent.extend_from_slice(body.tail());
            break;
        }
    }
    Ok((sent, body.is_done()))
}

fn content(mut body: BodyState, bytes: &[u8], size: usize) -> Result<(Vec<u8>, bool), Reason> {
    let mut data = Vec::new();
    for piece in bytes.chunks(size) {
        let mut rest = piece;
        while !rest.is_empty() && !body.is_done() {
            let payload = body.decode(rest)?;
            assert!(payload.taken > 0);
            data.extend_from_slice(&rest[payload.data]);
            rest = &rest[payload.taken..];
        }
    }
    Ok((data, body.is_done()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let size = usize::from(choice >> 1) + 1;
    let whole = relayed(body(*choice), bytes, bytes.len().max(1));
    assert_eq!(relayed(body(*choice), bytes, size), whole);
    let data = content(body(*choice), bytes, bytes.len().max(1));
    assert_eq!(content(body(*choice), bytes, size), data);
    match (whole, data) {
        (Ok((sent, true)), Ok((data, true))) => {
            assert_eq!(content(body(*choice), &sent, size), Ok((data, true)));
        }
        (whole, data) => assert_eq!(whole.map(|(_, done)| done), data.map(|(_, done)| done)),
    }
});
