//! The limits of the codec, each with its default.

/// More header slots than this are never kept on the stack while a head is parsed.
pub const HEADERS_HARD_MAX: usize = 256;

/// What one message may cost at most; checked before anything is buffered beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, request or response, with its final empty line (32 KiB): 431 or 502.
    pub head_bytes_max: usize,
    /// Bytes of a request target (8 KiB): 414.
    pub target_bytes_max: usize,
    /// Header lines of a head (128, at most [`HEADERS_HARD_MAX`]): 431 or 502.
    pub headers_max: usize,
    /// Bytes of extensions on one chunk line (256): 400 or a cut.
    pub chunk_extension_bytes_max: usize,
    /// Bytes of a trailer section (8 KiB): 431 or a cut.
    pub trailer_bytes_max: usize,
    /// Bytes of a request body without its framing (no limit: bodies are streamed): 413.
    pub body_bytes_max: u64,
    /// Forward request headers whose name has `_` or `.` (no). CGI-like back ends read `X_Real_IP`
    /// and `X-Real-IP` as one variable, so such a name is a way around what we remove.
    pub odd_names: bool,
}

impl Limits {
    /// The limits that hold unless the config says otherwise.
    pub const DEFAULT: Limits = Limits {
        head_bytes_max: 32 * 1024,
        target_bytes_max: 8 * 1024,
        headers_max: 128,
        chunk_extension_bytes_max: 256,
        trailer_bytes_max: 8 * 1024,
        body_bytes_max: u64::MAX,
        odd_names: false,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}
