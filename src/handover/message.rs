//! What the two processes say. They may be of different versions, so: a field may be added, never
//! changed; what a version does not know it passes over; a word that it does not know ends the
//! upgrade before anything was changed. [`PROTOCOL`] rises only when that is not enough.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use portolan_discovery::model::{Event, InstanceId, Kv, Revision, ServiceName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What both must have in common.
pub const PROTOCOL: u32 = 1;

/// The use of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A listener of the router.
    Router,
    /// The resolver, by UDP.
    DnsUdp,
    /// The resolver, by TCP.
    DnsTcp,
    /// The admin listener.
    Admin,
}

/// Sockets of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Names the group in later messages.
    pub id: u32,
    /// What they are used for.
    pub kind: Kind,
    /// The name of the listener, if it has one.
    pub name: Option<String>,
    /// The address that was asked for; its port may be 0.
    pub bind: SocketAddr,
}

/// What the process says that runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromOld {
    /// The first word.
    Welcome {
        /// Its [`PROTOCOL`].
        protocol: u32,
        /// Its version.
        version: String,
        /// Its process.
        pid: u32,
        /// Whether somebody waits for the end of the process that leads.
        guarded: bool,
        /// The file of the store.
        store: PathBuf,
        /// Where jobs and the saved table lie.
        data_dir: PathBuf,
        /// The format of that file.
        store_format: u64,
    },
    /// Some sockets; `files` of them go with it. One group may come in several pieces.
    Sockets {
        /// Where they belong.
        group: Group,
        /// How many.
        files: usize,
    },
    /// No more sockets.
    Offered,
    /// The line to a process that drains since an earlier upgrade; one file.
    Line {
        /// The process.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// Store and jobs may be taken.
    Released {
        /// The revision that is served.
        revision: Revision,
    },
    /// It accepts nothing more and drains.
    Commit,
    /// How far it is with that.
    State(State),
}

/// How far a process that drains is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The revision that all its workers serve.
    pub acked: Revision,
    /// Its open connections.
    pub connections: u64,
    /// What it has under way on instances that drain.
    pub draining: BTreeMap<ServiceName, BTreeMap<InstanceId, u64>>,
    /// Whether it serves nobody any more.
    pub is_over: bool,
}

/// What the process says that begins.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromNew {
    /// The first word.
    Hello {
        /// Its [`PROTOCOL`].
        protocol: u32,
        /// Its version.
        version: String,
        /// Its process.
        pid: u32,
    },
    /// It cannot; the last word.
    Failed {
        /// Why.
        cause: String,
    },
    /// All that can fail before it has the store has gone well.
    Prepared {
        /// The groups of sockets that it goes on with.
        taken: Vec<u32>,
    },
    /// It serves.
    Ready {
        /// This revision.
        revision: Revision,
    },
    /// It leads.
    Main {
        /// Its process.
        pid: u32,
    },
    /// All records of the data plane, for a process that drains.
    All {
        /// At this revision.
        revision: Revision,
        /// The records.
        records: Vec<Change>,
    },
    /// What has changed since, for a process that drains.
    Changes {
        /// At this revision.
        revision: Revision,
        /// The changes.
        changes: Vec<Change>,
    },
    /// Speak and listen here from now on; one file.
    Line,
    /// It was told to stop.
    Stopping,
}

/// A record as it is stored, or its end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Change {
    key: String,
    value: Option<Box<RawValue>>,
}

impl Change {
    /// The wire form of an event.
    pub fn of(event: &Event) -> Result<Self, serde_json::Error> {
        match event {
            Event::Put(kv) => Self::of_record(kv),
            Event::Delete { key, .. } => Ok(Self { key: key.clone(), value: None }),
        }
    }

    /// The wire form of a record.
    pub fn of_record(kv: &Kv) -> Result<Self, serde_json::Error> {
        Ok(Self { key: kv.key.clone(), value: Some(serde_json::from_slice(&kv.value)?) })
    }

    /// The event again, at `revision`; leases are the affair of who has the store.
    pub fn event(self, revision: Revision) -> Event {
        match self.value {
            Some(value) => Event::Put(Kv {
                key: self.key,
                value: String::from(Box::<str>::from(value)).into(),
                created: revision,
                modified: revision,
                lease: None,
            }),
            None => Event::Delete { key: self.key, revision },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_as_they_were() {
        let revision = Revision(7);
        let put = Event::Put(Kv {
            key: "/a".to_owned(),
            value: r#"{"n":1,"s":"é"}"#.into(),
            created: revision,
            modified: revision,
            lease: None,
        });
        let events = [put, Event::Delete { key: "/b".to_owned(), revision }];
        let changes = events.iter().map(|event| Change::of(event).unwrap()).collect();
        let text = serde_json::to_string(&FromNew::Changes { revision, changes }).unwrap();
        let FromNew::Changes { changes, .. } = serde_json::from_str(&text).unwrap() else {
            panic!("{text}");
        };
        let back: Vec<_> = changes.into_iter().map(|change| change.event(revision)).collect();
        assert_eq!(back, events);
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let text = r#"{"prepared":{"taken":[1],"colour":"blue"}}"#;
        assert!(matches!(serde_json::from_str(text).unwrap(), FromNew::Prepared { .. }));
        assert!(serde_json::from_str::<FromNew>(r#"{"sing":{}}"#).is_err());
    }
}
