//! The encoders, one for each response that is compressed, and what they may hold.
//! The only place that names the libraries.

use std::fmt;

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{
    BrotliEncoderOperation, BrotliEncoderParameter, BrotliEncoderStateStruct,
};
use flate2::{Compress, Compression, FlushCompress, Status};
use portolan_discovery::model::Coding;
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use crate::buffer::Lent;

/// The window of gzip, as a power of two: what the format has at most.
const GZIP_WINDOW_BITS: u8 = 15;
/// The window of Brotli. A smaller one makes its levels from 5 on use tables of 32 MiB.
const BR_WINDOW_BITS: u32 = 17;
/// The window of Zstandard; RFC 9659 allows 2^23 to clients, and we hold it for each of them.
const ZSTD_WINDOW_BITS: u32 = 17;
/// The entries of the tables of Zstandard, as a power of two.
const ZSTD_TABLE_BITS: u32 = 15;

/// Bytes that an encoder holds at most, with what it gives at once: as measured by
/// `tests/compress_memory.rs`. They count as lent, as buffers do.
const GZIP_BYTES_MAX: usize = 512 * 1024;
const ZSTD_BYTES_MAX: usize = 1536 * 1024;
const BR_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The same from level 4 on.
const BR_HIGH_BYTES_MAX: usize = 6 * 1024 * 1024;

/// The room that an encoder is given at least to write to.
const ROOM: usize = 4 * 1024;

/// An encoder failed: only without memory, or if the library has a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the encoder failed")]
pub struct EncodeError;

/// What follows a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// More, whenever it comes.
    More,
    /// Nothing for now: a client can decode all that there is so far.
    Flush,
    /// Nothing.
    End,
}

enum Kind {
    Gzip(Compress),
    Br(Box<BrotliEncoderStateStruct<StandardAlloc>>),
    Zstd(CCtx<'static>),
}

/// Encodes one body.
pub struct Encoder {
    kind: Kind,
    coding: Coding,
    out: Vec<u8>,
    /// Something went in that may not have come out.
    holds: bool,
    _lent: Lent,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("coding", &self.coding).finish_non_exhaustive()
    }
}

/// Bytes that an encoder holds at most.
pub fn memory_max(coding: Coding, level: u8) -> usize {
    match coding {
        Coding::Gzip => GZIP_BYTES_MAX,
        Coding::Zstd => ZSTD_BYTES_MAX,
        Coding::Br if level < 4 => BR_BYTES_MAX,
        Coding::Br => BR_HIGH_BYTES_MAX,
    }
}

impl Encoder {
    /// An encoder for a body of this length, if that is known; none when so much is lent that
    /// memory is worth more than what is saved on the way to the client.
    pub fn begin(coding: Coding, level: u8, length: Option<u64>) -> Option<Box<Self>> {
        let lent = Lent::freely(memory_max(coding, level))?;
        let kind = match coding {
            Coding::Gzip => {
                let level = Compression::new(level.into());
                Kind::Gzip(Compress::new_gzip(level, GZIP_WINDOW_BITS))
            }
            Coding::Br => Kind::Br(brotli(level, length)?),
            Coding::Zstd => Kind::Zstd(zstd(level, length)?),
        };
        Some(Box::new(Self { kind, coding, out: Vec::new(), holds: false, _lent: lent }))
    }

    /// The coding.
    pub fn coding(&self) -> Coding {
        self.coding
    }

    /// Takes more of the body.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), EncodeError> {
        self.holds |= !piece.is_empty();
        self.run(piece, Then::More)
    }

    /// Gives all that went in; false if that has been given already.
    pub fn flush(&mut self) -> Result<bool, EncodeError> {
        if !std::mem::take(&mut self.holds) {
            return Ok(false);
        }
        self.run(&[], Then::Flush)?;
        Ok(true)
    }

    /// The body has ended.
    pub fn finish(&mut self) -> Result<(), EncodeError> {
        self.run(&[], Then::End)
    }

    /// What has come out, to be taken.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    fn run(&mut self, input: &[u8], then: Then) -> Result<(), EncodeError> {
        let out = &mut self.out;
        match &mut self.kind {
            Kind::Gzip(gzip) => run_gzip(gzip, input, then, out),
            Kind::Br(br) => run_br(br, input, then, out),
            Kind::Zstd(zstd) => run_zstd(zstd, input, then, out),
        }
    }
}

fn brotli(level: u8, length: Option<u64>) -> Option<Box<BrotliEncoderStateStruct<StandardAlloc>>> {
    use BrotliEncoderParameter::{
        BROTLI_PARAM_LGWIN, BROTLI_PARAM_QUALITY, BROTLI_PARAM_SIZE_HINT,
    };
    let mut br = Box::new(BrotliEncoderStateStruct::new(StandardAlloc::default()));
    let hint = length.and_then(|length| u32::try_from(length).ok()).unwrap_or(0);
    let is_set = br.set_parameter(BROTLI_PARAM_QUALITY, level.into())
        && br.set_parameter(BROTLI_PARAM_LGWIN, BR_WINDOW_BITS)
        && br.set_parameter(BROTLI_PARAM_SIZE_HINT, hint);
    is_set.then_some(br)
}

fn zstd(level: u8, length: Option<u64>) -> Option<CCtx<'static>> {
    let mut zstd = CCtx::try_create()?;
    for parameter in [
        CParameter::CompressionLevel(level.into()),
        CParameter::WindowLog(ZSTD_WINDOW_BITS),
        CParameter::HashLog(ZSTD_TABLE_BITS),
        CParameter::ChainLog(ZSTD_TABLE_BITS),
    ] {
        zstd.set_parameter(parameter).ok()?;
    }
    zstd.set_pledged_src_size(length).ok()?;
    Some(zstd)
}

fn run_gzip(
    gzip: &mut Compress,
    input: &[u8],
    then: Then,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let flush = match then {
        Then::More => FlushCompress::None,
        Then::Flush => FlushCompress::Sync,
        Then::End => FlushCompress::Finish,
    };
    let mut at = 0;
    loop {
        out.reserve(ROOM);
        let before = gzip.total_in();
        let status = gzip.compress_vec(&input[at..], out, flush).map_err(|_| EncodeError)?;
        at += usize::try_from(gzip.total_in() - before).map_err(|_| EncodeError)?;
        // With room left, nothing is held back that was to come out.
        let is_done = match then {
            Then::End => status == Status::StreamEnd,
            Then::More | Then::Flush => at == input.len() && out.len() < out.capacity(),
        };
        if is_done {
            return Ok(());
        }
    }
}

fn run_br(
    br: &mut BrotliEncoderStateStruct<StandardAlloc>,
    input: &[u8],
    then: Then,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let operation = match then {
        Then::More => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
        Then::Flush => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
        Then::End => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
    };
    let (mut left, mut at) = (input.len(), 0);
    loop {
        // Without room of ours it writes to its own, from which we take.
        let is_well = br.compress_stream(
            operation,
            &mut left,
            input,
            &mut at,
            &mut 0,
            &mut [],
            &mut 0,
            &mut None,
            &mut |_, _, _, _| (),
        );
        if !is_well {
            return Err(EncodeError);
        }
        while br.has_more_output() {
            let mut count = 0;
            let taken = br.take_output(&mut count);
            out.extend_from_slice(&taken[..count]);
        }
        let is_done = match then {
            Then::End => br.is_finished(),
            Then::More | Then::Flush => left == 0,
        };
        if is_done {
            return Ok(());
        }
    }
}

fn run_zstd(
    zstd: &mut CCtx<'static>,
    input: &[u8],
    then: Then,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let directive = match then {
        Then::More => ZSTD_EndDirective::ZSTD_e_continue,
        Then::Flush => ZSTD_EndDirective::ZSTD_e_flush,
        Then::End => ZSTD_EndDirective::ZSTD_e_end,
    };
    let mut input = InBuffer::around(input);
    loop {
        out.reserve(ROOM);
        let end = out.len();
        let mut room = OutBuffer::around_pos(out, end);
        let held =
            zstd.compress_stream2(&mut room, &mut input, directive).map_err(|_| EncodeError)?;
        let is_done = match then {
            Then::More => input.pos() == input.src.len(),
            Then::Flush | Then::End => held == 0,
        };
        if is_done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;
    use zstd_safe::DCtx;

    use super::*;

    fn decoded(coding: Coding, body: &[u8], length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 1);
        match coding {
            Coding::Gzip => GzDecoder::new(body).read_to_end(&mut out).map(drop).unwrap(),
            Coding::Br => {
                brotli::Decompressor::new(body, 4096).read_to_end(&mut out).map(drop).unwrap();
            }
            Coding::Zstd => {
                DCtx::create().decompress(&mut out, body).map(drop).unwrap();
            }
        }
        out
    }

    /// Bytes of some sense: words of a small alphabet, and noise.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            3 => "[a-d]{1,12}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 1..40),
        ];
        let repeated = (word, 1..200usize).prop_map(|(word, times)| word.repeat(times));
        prop::collection::vec(repeated, 0..40).prop_map(|words| words.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_decoded_is_what_was_encoded_in_whatever_pieces(
            body in bytes(),
            cuts in prop::collection::vec((0..40_000usize, any::<bool>()), 0..12),
            coding in prop::sample::select(Coding::ALL.to_vec()),
            of_levels in 0.0..1.0f64,
            is_known in any::<bool>(),
        ) {
            let levels: Vec<u8> = coding.levels().collect();
            let level = levels[(of_levels * levels.len() as f64) as usize];
            let length = is_known.then_some(body.len() as u64);
            let mut encoder = Encoder::begin(coding, level, length).unwrap();
            let (mut encoded, mut rest) = (Vec::new(), &body[..]);
            for (len, flushed) in cuts {
                let (piece, behind) = rest.split_at(len.min(rest.len()));
                rest = behind;
                encoder.push(piece).unwrap();
                if flushed {
                    encoder.flush().unwrap();
                    prop_assert!(!encoder.flush().unwrap(), "there is nothing more to give");
                }
                encoded.append(encoder.out());
            }
            encoder.push(rest).unwrap();
            encoder.finish().unwrap();
            encoded.append(encoder.out());
            prop_assert!(decoded(coding, &encoded, body.len()) == body);
        }
    }

    #[test]
    fn zstandard_holds_no_more_than_is_counted() {
        let body: Vec<u8> = (0..4_000_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        for level in Coding::Zstd.levels() {
            let mut encoder = Encoder::begin(Coding::Zstd, level, None).unwrap();
            for piece in body.chunks(16 * 1024) {
                encoder.push(piece).unwrap();
                encoder.flush().unwrap();
                let Kind::Zstd(zstd) = &encoder.kind else { panic!("another encoder") };
                let held = zstd.sizeof() + encoder.out().capacity();
                assert!(held <= memory_max(Coding::Zstd, level), "level {level} holds {held}");
                encoder.out().clear();
            }
        }
    }
}
