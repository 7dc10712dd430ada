//! The frames of one direction of an HTTP/2 connection as they pass by (RFC 9113 §4.1): kind,
//! flags and the first bytes of each. Takes nothing out and judges nothing.

/// Bytes of a frame's head.
const HEAD: usize = 9;

/// Bytes of a payload that are looked at: those of a GOAWAY with its code.
const LOOK: usize = 8;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Unknown,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }
}

/// A frame, known from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Bytes of its payload.
    pub(super) len: usize,
    /// The first two numbers of the payload, 0 where there are none.
    pub(super) words: [u32; 2],
}

impl Frame {
    /// Flag 1: END_STREAM of DATA and HEADERS, ACK of SETTINGS and PING.
    pub(super) fn has_flag_1(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// Follows one direction.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; HEAD + LOOK],
    /// Bytes of the head and of what is looked at that have come.
    have: usize,
    /// Bytes to pass over before the next frame; first of all the preface.
    skip: usize,
}

impl Frames {
    /// Frames that follow `skip` bytes of something else.
    pub(super) fn after(skip: usize) -> Self {
        Self { head: [0; HEAD + LOOK], have: 0, skip }
    }

    /// Goes over bytes; `see` is told of each frame once what is looked at of it has come.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut see: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let wanted = if self.have < HEAD { HEAD } else { HEAD + self.look() };
            let count = (wanted - self.have).min(bytes.len());
            self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have >= HEAD && self.have == HEAD + self.look() {
                see(self.frame());
                self.skip = self.len() - self.look();
                self.have = 0;
            }
        }
    }

    fn len(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    /// Only of frames about the connection more than the head is looked at.
    fn look(&self) -> usize {
        match self.head[3] {
            3 | 7 | 8 => self.len().min(LOOK),
            _ => 0,
        }
    }

    fn frame(&self) -> Frame {
        let word = |at: usize| match (self.head[at..].first_chunk(), self.have >= at + 4) {
            (Some(bytes), true) => u32::from_be_bytes(*bytes),
            _ => 0,
        };
        Frame {
            kind: Kind::of(self.head[3]),
            flags: self.head[4],
            stream: word(5) & (u32::MAX >> 1),
            len: self.len(),
            words: [word(HEAD), word(HEAD + 4)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = (payload.len() as u32).to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn seen(bytes: &[u8], size: usize) -> Vec<Frame> {
        let (mut frames, mut all) = (Frames::after(3), Vec::new());
        bytes.chunks(size).for_each(|part| frames.pass(part, |frame| all.push(frame)));
        all
    }

    #[test]
    fn frames_are_seen_however_the_bytes_are_cut() {
        let bytes = [
            b"PRI".to_vec(),
            raw(4, 0, 0, &[0; 12]),
            raw(1, 5, 1, b"block"),
            raw(8, 0, 1, &7_u32.to_be_bytes()),
            raw(0, 1, 1, b""),
            raw(7, 0, 0, &[0, 0, 0, 9, 0, 0, 0, 11, b'x']),
            raw(3, 0, 0x8000_0003, &8_u32.to_be_bytes()),
            raw(0, 0, 1, &[1; 300]),
            raw(99, 0, 0, b"?"),
        ]
        .concat();
        let frame = |kind, flags, stream, len, words| Frame { kind, flags, stream, len, words };
        let expected = [
            frame(Kind::Settings, 0, 0, 12, [0, 0]),
            frame(Kind::Headers, 5, 1, 5, [0, 0]),
            frame(Kind::WindowUpdate, 0, 1, 4, [7, 0]),
            frame(Kind::Data, 1, 1, 0, [0, 0]),
            frame(Kind::GoAway, 0, 0, 9, [9, 11]),
            frame(Kind::Reset, 0, 3, 4, [8, 0]),
            frame(Kind::Data, 0, 1, 300, [0, 0]),
            frame(Kind::Unknown, 0, 0, 1, [0, 0]),
        ];
        for size in [1, 2, 8, 9, 10, 17, 1000] {
            assert_eq!(seen(&bytes, size), expected, "{size}");
        }
    }
}
