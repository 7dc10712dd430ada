//! Queries as bytes, and replies through hickory's eyes: the oracle of every test here.

use hickory_proto::op::Message;
use hickory_proto::rr::{Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// A query with everything that matters to a reply.
#[derive(Debug, Clone)]
pub struct Ask {
    pub id: u16,
    pub name: String,
    pub qtype: u16,
    pub qclass: u16,
    pub opcode: u16,
    pub recursion: bool,
    pub edns: Option<u16>,
    pub version: u8,
    pub dnssec_ok: bool,
    pub questions: u16,
}

impl Ask {
    pub fn new(name: &str, qtype: RecordType) -> Self {
        Self {
            id: 0x1234,
            name: name.to_owned(),
            qtype: qtype.into(),
            qclass: 1,
            opcode: 0,
            recursion: true,
            edns: None,
            version: 0,
            dnssec_ok: false,
            questions: 1,
        }
    }

    pub fn with_edns(self, payload: u16) -> Self {
        Self { edns: Some(payload), ..self }
    }

    pub fn with_id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    pub fn question(&self) -> Vec<u8> {
        let mut question = Vec::new();
        for label in self.name.split('.').filter(|label| !label.is_empty()) {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend_from_slice(label.as_bytes());
        }
        question.push(0);
        question.extend_from_slice(&self.qtype.to_be_bytes());
        question.extend_from_slice(&self.qclass.to_be_bytes());
        question
    }

    pub fn bytes(&self) -> Vec<u8> {
        let flags = self.opcode << 11 | u16::from(self.recursion) << 8;
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&self.questions.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        for _ in 0..self.questions {
            bytes.extend_from_slice(&self.question());
        }
        if let Some(payload) = self.edns {
            let [high, low] = payload.to_be_bytes();
            let dnssec_ok = u8::from(self.dnssec_ok) << 7;
            bytes.extend_from_slice(&[0, 0, 41, high, low, 0, self.version, dnssec_ok, 0, 0, 0]);
        }
        bytes
    }
}

/// Reads a message to its very last byte.
pub fn read(bytes: &[u8]) -> Message {
    let mut decoder = BinDecoder::new(bytes);
    let message = Message::read(&mut decoder)
        .unwrap_or_else(|error| panic!("{error}: {}", bytes.escape_ascii()));
    assert!(decoder.is_empty(), "{} bytes after the last record", decoder.len());
    message
}

/// A record as `OWNER TTL TYPE DATA`.
pub fn text(record: &Record) -> String {
    let Record { name, ttl, data, .. } = record;
    format!("{name} {ttl} {} {data}", record.record_type()).trim_end().to_owned()
}

/// The data of all answers, sorted.
pub fn data(message: &Message) -> Vec<String> {
    let mut data: Vec<String> =
        message.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}
