//! A client of frames made by hand: what no library would send.

use std::net::SocketAddr;

use super::peer::{Peer, within};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `ENHANCE_YOUR_CALM`
pub const CALM: u32 = 11;
pub const PROTOCOL_ERROR: u32 = 1;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET / http web.test` in HPACK, without a table.
pub fn get() -> Vec<u8> {
    [&[0x82, 0x86, 0x84, 0x01][..], &text("web.test")].concat()
}

/// The same with a method in letters.
pub fn asking(method: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x02];
    block.extend(text(method));
    block.extend([0x86, 0x84, 0x01]);
    block.extend(text("web.test"));
    for (name, value) in fields {
        block.push(0);
        block.extend(text(name));
        block.extend(text(value));
    }
    block
}

/// A string without Huffman's code.
pub fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    match u8::try_from(text.len()) {
        Ok(len @ ..127) => bytes.push(len),
        _ => {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// A frame that came.
#[derive(Debug)]
pub struct Came {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Came {
    /// The code of a RST_STREAM or a GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(*self.payload[at..].first_chunk().unwrap())
    }
}

/// The client.
pub struct Raw(pub Peer);

impl Raw {
    /// One that has greeted.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::greeting(addr, &[]).await
    }

    /// The same with settings.
    pub async fn greeting(addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self(Peer::connect(addr).await);
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        raw.0.send([PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await;
        raw
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes).await;
    }

    /// Sends until the router has enough.
    pub async fn flood(&mut self, bytes: &[u8], times: usize) {
        for _ in 0..times {
            if !self.0.try_send(bytes).await {
                return;
            }
        }
    }

    /// The next frame; none at the end.
    pub async fn next(&mut self) -> Option<Came> {
        within("a frame", async {
            let head = self.0.try_read(9).await?;
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let payload = self.0.try_read(len).await?;
            let stream = u32::from_be_bytes(*head[5..].first_chunk().unwrap());
            Some(Came { kind: head[3], stream, payload })
        })
        .await
    }

    /// The next frame of a kind.
    pub async fn next_of(&mut self, kind: u8) -> Option<Came> {
        loop {
            match self.next().await {
                Some(came) if came.kind != kind => {}
                other => return other,
            }
        }
    }
}
