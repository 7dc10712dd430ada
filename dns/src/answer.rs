//! The whole decision about one query: answer from the zone, from the cache, forward, or drop.
//!
//! A plain function over borrowed state: no lock beyond the cache's, no clock, no socket, and
//! no allocation for what it answers itself.

mod local;

use std::time::Duration;

use crate::cache::{Cache, Key};
use crate::wire::{Asked, CLASS_IN, Query, Rcode, Unreadable, Writer, flag, header_only, rtype};
use crate::zone::{Found, Zone};

/// Who asks, as far as the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Whether the query came by TCP, which has room for every reply.
    pub by_tcp: bool,
    /// Whether the client's address is in an allowed network.
    pub allowed: bool,
}

/// What answers are made from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The cluster zone.
    pub zone: &'a Zone,
    /// What upstreams said before.
    pub cache: &'a Cache,
    /// The time since the resolver was started.
    pub now: Duration,
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The cluster zone.
    Zone,
    /// The cache.
    Cache,
    /// An upstream, just now.
    Upstream,
    /// Nowhere: the query was turned down, or nobody had an answer.
    None,
}

/// What is counted of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// The type that was asked for; 0 when it could not be read.
    pub qtype: u16,
    /// The response code.
    pub rcode: Rcode,
    /// Where the answer comes from.
    pub source: Source,
}

/// Why a query was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unserved {
    /// Shorter than a header: no answer.
    Short,
    /// An answer, not a query: no answer.
    Response,
    /// The client's network is not allowed: REFUSED.
    Network,
    /// Another class than IN: REFUSED.
    Class,
    /// A zone transfer or a key exchange: REFUSED.
    Transfer,
    /// Recursion is needed and not desired: REFUSED.
    Recursion,
    /// Too much is under way: SERVFAIL, or the connection is closed.
    Busy,
}

/// What is to be done with a query.
#[derive(Debug)]
pub enum Decision {
    /// The reply is in the buffer.
    Reply(Note),
    /// The reply is in the buffer; it says no.
    Refuse(Note, Unserved),
    /// An upstream has to be asked.
    Forward(Box<Miss>),
    /// No reply.
    Drop(Unserved),
}

/// A question for an upstream.
#[derive(Debug)]
pub struct Miss {
    pub(crate) key: Key,
    pub(crate) asked: Asked<Box<[u8]>>,
}

impl Miss {
    /// Writes the reply that nobody had an answer.
    pub(crate) fn fail(asked: &Asked<Box<[u8]>>, out: &mut Vec<u8>) -> Note {
        Writer::begin(asked, out).finish(asked, Rcode::SERVFAIL, 0);
        Note { qtype: asked.qtype(), rcode: Rcode::SERVFAIL, source: Source::None }
    }

    /// The question as the client spelled it: name, type, class.
    pub fn question(&self) -> &[u8] {
        &self.asked.question
    }
}

/// Decides about `query` and writes the reply, if there is one now, into `out`.
pub fn answer(
    query: &[u8],
    client: Client,
    view: &View<'_>,
    rng: &mut fastrand::Rng,
    out: &mut Vec<u8>,
) -> Decision {
    out.clear();
    let query = match Query::read(query) {
        Ok(query) => query,
        Err(Unreadable::Short) => return Decision::Drop(Unserved::Short),
        Err(Unreadable::Response) => return Decision::Drop(Unserved::Response),
        Err(Unreadable::Fault { id, flags, rcode }) => {
            header_only(id, flags, rcode, out);
            return Decision::Reply(Note { qtype: 0, rcode, source: Source::None });
        }
    };
    let asked = Asked::of(&query, client.by_tcp);
    if let Some((rcode, unserved)) = turned_down(&query, client) {
        Writer::begin(&asked, out).finish(&asked, rcode, 0);
        let note = Note { qtype: query.qtype, rcode, source: Source::None };
        return unserved.map_or(Decision::Reply(note), |why| Decision::Refuse(note, why));
    }
    match view.zone.find(&query.name) {
        Found::Outside => from_cache(&query, &asked, view, out),
        found => {
            let rcode = local::write(&found, &asked, query.qtype, view.zone, rng, out);
            Decision::Reply(Note { qtype: query.qtype, rcode, source: Source::Zone })
        }
    }
}

/// The response code for a query that is answered without looking at its name.
fn turned_down(query: &Query<'_>, client: Client) -> Option<(Rcode, Option<Unserved>)> {
    let why = if !client.allowed {
        Unserved::Network
    } else if query.edns.is_some_and(|edns| edns.version > 0) {
        return Some((Rcode::BADVERS, None));
    } else if query.qclass != CLASS_IN {
        Unserved::Class
    } else if (rtype::TKEY..=rtype::AXFR).contains(&query.qtype) {
        Unserved::Transfer
    } else {
        return None;
    };
    Some((Rcode::REFUSED, Some(why)))
}

fn from_cache(
    query: &Query<'_>,
    asked: &Asked<&[u8]>,
    view: &View<'_>,
    out: &mut Vec<u8>,
) -> Decision {
    let key = Key::of(query);
    let note = |rcode, source| Note { qtype: query.qtype, rcode, source };
    if let Some((reply, age_s)) = view.cache.find(&key, view.now) {
        reply.write(asked, age_s, out);
        return Decision::Reply(note(reply.rcode(), Source::Cache));
    }
    if query.flags & flag::RD == 0 {
        Writer::begin(asked, out).finish(asked, Rcode::REFUSED, 0);
        return Decision::Refuse(note(Rcode::REFUSED, Source::None), Unserved::Recursion);
    }
    let asked = Asked {
        id: asked.id,
        flags: asked.flags,
        edns: asked.edns,
        by_tcp: asked.by_tcp,
        question: asked.question.into(),
    };
    Decision::Forward(Box::new(Miss { key, asked }))
}

#[cfg(test)]
mod tests;
