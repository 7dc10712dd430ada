//! Bodies that are compressed on their way.
//!
//! What the instance has sent leaves at once: when nothing more of it is there, the encoder is
//! flushed, so that events, long polls and slow pages are never held back. As long as more is
//! there it is not, because each flush costs some of what is saved.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

use super::{Asked, Download, Stage};
use crate::compress::{EncodeError, Encoder, judge};
use crate::h1::{
    BodyFraming, CHUNK_END, ChunkHead, Deliver, Delivery, Reason, Recode, Relay, Response,
    write_recoded_trailer,
};

/// What is encoded in one go, in bytes as they come: of that, a millisecond at most.
pub(in crate::proxy) const PIECE: usize = 16 * 1024;
/// Pieces that one response may have encoded before others get their turn.
pub(in crate::proxy) const TURN_PIECES_MAX: usize = 2;

/// Lets others have their turn, and what sockets have to say be heard before the next one. A
/// task that just wakes itself would be run many times before that.
pub(in crate::proxy) fn rest(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

impl From<EncodeError> for Reason {
    fn from(_: EncodeError) -> Self {
        Self::Internal
    }
}

/// Writes the head of a response of a route that compresses. If this one is compressed, `encoder`
/// is one for it then.
pub(super) fn write_head(
    response: &Response<'_>,
    deliver: &Deliver<'_>,
    asked: &Asked<'_>,
    encoder: &mut Option<Box<Encoder>>,
    out: &mut Vec<u8>,
) -> Result<Delivery, Reason> {
    let recode = prepare(response, asked, encoder);
    match recode.is_none() {
        true => response.write_client(deliver, out),
        false => response.write_recoded(deliver, &recode, out),
    }
}

fn prepare(
    response: &Response<'_>,
    asked: &Asked<'_>,
    encoder: &mut Option<Box<Encoder>>,
) -> Recode {
    let Some((rule, wish)) = asked.compress else { return Recode::NONE };
    let verdict = judge(rule, wish, response);
    let coding = match verdict.coding {
        Some(coding) if response.facts().body != BodyFraming::None => coding,
        // Also in answer to HEAD, where the head is all that there is.
        _ => return verdict.recode,
    };
    let metrics = &asked.worker.metrics;
    *encoder = Encoder::begin(coding, rule.level(coding), response.content_length());
    if encoder.is_none() {
        metrics.not_compressed.inc();
        return verdict.uncoded().recode;
    }
    metrics.compressed[coding as usize].responses.inc();
    verdict.recode
}

impl Download {
    /// Encodes a piece of what has come, and queues what comes out.
    pub(super) fn compress(&mut self, asked: &Asked<'_>) -> Result<(), Reason> {
        let data = self.buffer.data();
        let data = &data[..data.len().min(PIECE)];
        let encoder = self.encoder.as_mut().expect("this relay has an encoder");
        let before = self.body.content_bytes();
        while self.spent < data.len() && !self.body.is_done() {
            let rest = &data[self.spent..];
            let payload = self.body.decode(rest)?;
            encoder.push(&rest[payload.data])?;
            self.spent += payload.taken;
        }
        let encoded = self.body.content_bytes() - before;
        asked.worker.metrics.compressed[encoder.coding() as usize].bytes_in.inc_by(encoded);
        if self.body.is_done() {
            return self.end_compressed(asked);
        }
        self.queue_encoded(asked);
        Ok(())
    }

    /// Queues what the encoder holds; false if that is nothing.
    pub(super) fn flush_encoder(&mut self, asked: &Asked<'_>) -> Result<bool, Reason> {
        let Some(encoder) = &mut self.encoder else { return Ok(false) };
        if self.stage != Stage::Body || !encoder.flush()? {
            return Ok(false);
        }
        self.queue_encoded(asked);
        Ok(true)
    }

    /// The body has ended: queues the rest of it, and its end.
    pub(super) fn end_compressed(&mut self, asked: &Asked<'_>) -> Result<(), Reason> {
        self.encoder.as_mut().expect("this relay has an encoder").finish()?;
        self.queue_encoded(asked);
        if self.relay == (Relay::Compress { chunked: true }) {
            let head = self.outbox.head();
            head.extend_from_slice(b"0\r\n");
            match self.body.tail() {
                [] => head.extend_from_slice(b"\r\n"),
                trailer => write_recoded_trailer(trailer, head),
            }
        }
        self.stage = Stage::Over;
        // What it held goes back at once: the client may take its time with the rest.
        self.encoder = None;
        Ok(())
    }

    fn queue_encoded(&mut self, asked: &Asked<'_>) {
        let Some(encoder) = &mut self.encoder else { return };
        let metrics = &asked.worker.metrics.compressed[encoder.coding() as usize];
        let encoded = encoder.out();
        if encoded.is_empty() {
            return;
        }
        metrics.bytes_out.inc_by(encoded.len() as u64);
        let head = self.outbox.head();
        if self.relay == (Relay::Compress { chunked: true }) {
            head.extend_from_slice(ChunkHead::new(encoded.len()).as_bytes());
            head.append(encoded);
            head.extend_from_slice(CHUNK_END);
        } else {
            head.append(encoded);
        }
    }
}
