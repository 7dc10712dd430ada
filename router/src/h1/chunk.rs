//! Chunks: the encoder.

/// Ends the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The line before the data of a chunk: data, then [`CHUNK_END`], follow.
#[derive(Clone, Copy, Debug)]
pub struct ChunkHead {}

impl ChunkHead {
    /// The line for `len` bytes of data; `len` must not be 0, which would end the body.
    pub fn new(len: usize) -> ChunkHead {
        todo!()
    }
    /// The bytes of the line.
    pub fn as_bytes(&self) -> &[u8] {
        todo!()
    }
}
