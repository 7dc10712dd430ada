//! Answers from the cluster zone, authoritative and complete.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use imbl::OrdSet;

use crate::wire::{Asked, Full, OWNER_OF_QUESTION, Rcode, Section, Writer, flag, rtype};
use crate::zone::{Found, Members, Owner, Zone};

/// Names that lead to the router: neither its address nor that of a service changes with the
/// instances.
const PROXY_TTL_S: u32 = 30;
/// Names of instances, and denials: both change when an instance comes or goes.
const INSTANCE_TTL_S: u32 = 5;
/// RFC 8482 asks for a TTL that keeps who asks for ANY away for a while.
const ANY_TTL_S: u32 = 3600;
/// The most records of one set, also by TCP; of a larger set a random part is given.
const RECORDS_MAX: usize = 256;
/// The most names of one address.
const POINTERS_MAX: usize = 8;
/// A pointer's target has 14 bits (RFC 1035 §4.1.4).
const TARGET_MAX: usize = 0x3fff;

// RFC 1912 §2.2 has these for a zone without secondaries to hurry.
const SOA_REFRESH_S: u32 = 3600;
const SOA_RETRY_S: u32 = 600;
const SOA_EXPIRE_S: u32 = 86_400;

type Written = Result<(), Full>;

/// What the records of one answer are made from.
struct Answer<'a> {
    zone: &'a Zone,
    qtype: u16,
    /// Where the zone's name begins in the question.
    apex_at: usize,
}

/// Writes the answer for a name of the zone, or of an address that the zone knows.
pub(super) fn write(
    found: &Found<'_>,
    asked: &Asked<&[u8]>,
    qtype: u16,
    zone: &Zone,
    rng: &mut fastrand::Rng,
    out: &mut Vec<u8>,
) -> Rcode {
    let mut writer = Writer::begin(asked, out);
    // For a reverse name there is no apex in the question, and nothing points at it.
    let apex_at = writer.position().saturating_sub(4 + zone.name().wire().len());
    let answer = Answer { zone, qtype, apex_at };
    let rcode = if matches!(found, Found::Missing) { Rcode::NXDOMAIN } else { Rcode::NOERROR };
    let written = answer.records(found, &mut writer, rng).and_then(|()| {
        if writer.records(Section::Answer) > 0 {
            return Ok(());
        }
        answer.soa(found, Section::Authority, &mut writer)
    });
    let mut flags = flag::AA;
    if written == Err(Full) {
        // RFC 2181 §9: part of a set is worse than none, the client comes again by TCP.
        writer.truncate();
        flags |= flag::TC;
    }
    writer.finish(asked, rcode, flags);
    rcode
}

impl Answer<'_> {
    fn records(&self, found: &Found<'_>, w: &mut Writer<'_>, rng: &mut fastrand::Rng) -> Written {
        if self.qtype == rtype::ANY && !matches!(found, Found::Missing) {
            // RFC 8482 §4.2.
            return self.record(w, rtype::HINFO, ANY_TTL_S, |w| w.put(b"\x07RFC8482\x00"));
        }
        match (found, self.qtype) {
            (Found::Apex, rtype::SOA) => self.soa(found, Section::Answer, w),
            (Found::Apex, rtype::NS) => self.name_server(w),
            (Found::Proxy, rtype::A) => self.v4(w, &self.zone.proxy().v4, PROXY_TTL_S, rng),
            (Found::Proxy, rtype::AAAA) => self.v6(w, &self.zone.proxy().v6, PROXY_TTL_S, rng),
            (Found::Instances(members), rtype::A) => self.v4(w, &members.v4, INSTANCE_TTL_S, rng),
            (Found::Instances(members), rtype::AAAA) => {
                self.v6(w, &members.v6, INSTANCE_TTL_S, rng)
            }
            (Found::Instance(addr), qtype) => self.addr(w, *addr, qtype, INSTANCE_TTL_S),
            (Found::Node(addr) | Found::Virtual(addr), qtype) => {
                self.addr(w, *addr, qtype, PROXY_TTL_S)
            }
            (Found::VirtualTarget(service, addr), rtype::SRV) => {
                self.virtual_target(w, service.as_str(), *addr)
            }
            (Found::Targets(members), rtype::SRV) => self.targets(w, members, rng),
            (Found::Reverse(owners), rtype::PTR) => self.pointers(w, owners),
            _ => Ok(()),
        }
    }

    /// One record of the name that was asked for.
    fn record(
        &self,
        w: &mut Writer<'_>,
        rtype: u16,
        ttl_s: u32,
        rdata: impl FnOnce(&mut Writer<'_>) -> Written,
    ) -> Written {
        w.record(Section::Answer, &OWNER_OF_QUESTION, rtype, ttl_s, rdata)
    }

    fn v4(
        &self,
        w: &mut Writer<'_>,
        addrs: &[Ipv4Addr],
        ttl_s: u32,
        rng: &mut fastrand::Rng,
    ) -> Written {
        Order::of(addrs.len(), rng)
            .try_each(|at| self.record(w, rtype::A, ttl_s, |w| w.put(&addrs[at].octets())))
    }

    fn v6(
        &self,
        w: &mut Writer<'_>,
        addrs: &[Ipv6Addr],
        ttl_s: u32,
        rng: &mut fastrand::Rng,
    ) -> Written {
        Order::of(addrs.len(), rng)
            .try_each(|at| self.record(w, rtype::AAAA, ttl_s, |w| w.put(&addrs[at].octets())))
    }

    fn addr(&self, w: &mut Writer<'_>, addr: IpAddr, qtype: u16, ttl_s: u32) -> Written {
        match (addr, qtype) {
            (IpAddr::V4(addr), rtype::A) => {
                self.record(w, rtype::A, ttl_s, |w| w.put(&addr.octets()))
            }
            (IpAddr::V6(addr), rtype::AAAA) => {
                self.record(w, rtype::AAAA, ttl_s, |w| w.put(&addr.octets()))
            }
            _ => Ok(()),
        }
    }

    fn name_server(&self, w: &mut Writer<'_>) -> Written {
        let mut host_at = 0;
        self.record(w, rtype::NS, PROXY_TTL_S, |w| {
            host_at = w.position();
            w.put(b"\x02ns\x03dns")?;
            w.put(&OWNER_OF_QUESTION)
        })?;
        let owner = pointer(host_at).unwrap_or(OWNER_OF_QUESTION);
        let proxy = self.zone.proxy();
        // The additional section may be cut short without a word (RFC 2181 §9).
        let _ = (proxy.v4.iter()).try_for_each(|addr| {
            w.record(Section::Additional, &owner, rtype::A, PROXY_TTL_S, |w| w.put(&addr.octets()))
        });
        let _ = (proxy.v6.iter()).try_for_each(|addr| {
            w.record(Section::Additional, &owner, rtype::AAAA, PROXY_TTL_S, |w| {
                w.put(&addr.octets())
            })
        });
        Ok(())
    }

    fn targets(&self, w: &mut Writer<'_>, members: &Members, rng: &mut fastrand::Rng) -> Written {
        let order = Order::of(members.targets.len(), rng);
        let service = members.service().as_str();
        let mut hosts = [0; RECORDS_MAX];
        let mut count = 0;
        order.try_each(|at| {
            let target = &members.targets[at];
            self.record(w, rtype::SRV, INSTANCE_TTL_S, |w| {
                w.put(&[0, 0])?;
                w.put(&target.weight.to_be_bytes())?;
                w.put(&target.port.to_be_bytes())?;
                hosts[count] = w.position();
                self.put_instance(w, target.id.as_str(), service)
            })?;
            count += 1;
            Ok(())
        })?;
        let mut hosts = hosts.iter();
        // The additional section may be cut short without a word (RFC 2181 §9).
        let _ = order.try_each(|at| {
            let owner = hosts.next().and_then(|host| pointer(*host)).ok_or(Full)?;
            host_record(w, &owner, members.targets[at].addr, INSTANCE_TTL_S)
        });
        Ok(())
    }

    /// The service itself, at its own address and port.
    fn virtual_target(&self, w: &mut Writer<'_>, service: &str, addr: SocketAddr) -> Written {
        let mut host_at = 0;
        self.record(w, rtype::SRV, PROXY_TTL_S, |w| {
            w.put(&[0, 0, 0, 0])?;
            w.put(&addr.port().to_be_bytes())?;
            host_at = w.position();
            self.put_service(w, service)
        })?;
        // The additional section may be cut short without a word (RFC 2181 §9).
        let _ = pointer(host_at).map(|owner| host_record(w, &owner, addr.ip(), PROXY_TTL_S));
        Ok(())
    }

    /// `SERVICE.ZONE`, in full: RFC 2782 forbids a pointer in SRV.
    fn put_service(&self, w: &mut Writer<'_>, service: &str) -> Written {
        put_label(w, service.as_bytes())?;
        w.put(self.zone.name().wire())
    }

    /// `ID.SERVICE.inst.ZONE`, in full: RFC 2782 forbids a pointer in SRV.
    fn put_instance(&self, w: &mut Writer<'_>, id: &str, service: &str) -> Written {
        put_label(w, id.as_bytes())?;
        put_label(w, service.as_bytes())?;
        put_label(w, b"inst")?;
        w.put(self.zone.name().wire())
    }

    fn pointers(&self, w: &mut Writer<'_>, owners: &OrdSet<Owner>) -> Written {
        owners.iter().take(POINTERS_MAX).try_for_each(|owner| {
            self.record(w, rtype::PTR, INSTANCE_TTL_S, |w| match owner {
                Owner::Node(node) => {
                    put_label(w, node.as_str().as_bytes())?;
                    put_label(w, b"node")?;
                    w.put(self.zone.name().wire())
                }
                Owner::Service(service) => self.put_service(w, service.as_str()),
                Owner::Instance(service, id) => self.put_instance(w, id.as_str(), service.as_str()),
            })
        })
    }

    /// The zone's SOA; its minimum is how long a denial lives (RFC 2308 §4).
    fn soa(&self, found: &Found<'_>, section: Section, w: &mut Writer<'_>) -> Written {
        // A reverse name that is known is a zone of its own, with nothing but itself in it.
        let is_reverse = matches!(found, Found::Reverse(_));
        let apex = pointer(self.apex_at).filter(|_| !is_reverse);
        let owner = apex.unwrap_or(OWNER_OF_QUESTION);
        w.record(section, &owner, rtype::SOA, INSTANCE_TTL_S, |w| {
            for host in [&b"\x02ns\x03dns"[..], b"\x0ahostmaster"] {
                w.put(host)?;
                match apex {
                    Some(apex) => w.put(&apex)?,
                    None => w.put(self.zone.name().wire())?,
                }
            }
            // Serials go round (RFC 1982), so the lower half of the revision is one.
            let serial = (self.zone.revision().0 & u64::from(u32::MAX)) as u32;
            for number in [serial, SOA_REFRESH_S, SOA_RETRY_S, SOA_EXPIRE_S, INSTANCE_TTL_S] {
                w.put(&number.to_be_bytes())?;
            }
            Ok(())
        })
    }
}

fn host_record(w: &mut Writer<'_>, owner: &[u8], addr: IpAddr, ttl_s: u32) -> Written {
    match addr {
        IpAddr::V4(addr) => {
            w.record(Section::Additional, owner, rtype::A, ttl_s, |w| w.put(&addr.octets()))
        }
        IpAddr::V6(addr) => {
            w.record(Section::Additional, owner, rtype::AAAA, ttl_s, |w| w.put(&addr.octets()))
        }
    }
}

fn put_label(w: &mut Writer<'_>, label: &[u8]) -> Written {
    w.put(&[u8::try_from(label.len()).map_err(|_| Full)?])?;
    w.put(label)
}

fn pointer(target: usize) -> Option<[u8; 2]> {
    // The cast is exact: the target has 14 bits.
    (target <= TARGET_MAX).then(|| (0xc000 | target as u16).to_be_bytes())
}

/// The numbers below `n` in random order, at most [`RECORDS_MAX`] of them.
struct Order {
    count: usize,
    places: [u16; RECORDS_MAX],
}

impl Order {
    fn of(n: usize, rng: &mut fastrand::Rng) -> Self {
        let count = n.min(RECORDS_MAX);
        let mut places = [0; RECORDS_MAX];
        // Of a larger set a run that begins anywhere: each member has the same chance.
        let start = if n > RECORDS_MAX { rng.usize(..n) } else { 0 };
        for (place, step) in places[..count].iter_mut().zip(0..) {
            *place = u16::try_from((start + step) % n).unwrap_or(u16::MAX);
        }
        rng.shuffle(&mut places[..count]);
        Self { count, places }
    }

    fn try_each(&self, mut each: impl FnMut(usize) -> Written) -> Written {
        self.places[..self.count].iter().try_for_each(|place| each(usize::from(*place)))
    }
}
