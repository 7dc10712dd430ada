//! Which service has which virtual address. Given, taken back and kept by the leader alone, each
//! time with the claim of the address in the same transaction: no address has two services, no
//! service has two addresses, however late the leader hears of what a former one has written.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use portolan_discovery::model::{
    AddressClaim, Key, ServiceName, VIRTUAL_ADDRESSES_MAX, VirtualAddress, VirtualRange,
};

use super::commit::Change;
use super::reconcile::Decision;
use super::view::View;

/// How long an address that its service has no use for any more is given to nobody else: many
/// times longer than resolvers may remember it.
pub const RELEASED_FOR: Duration = Duration::from_secs(5 * 60);
/// The most addresses that one pass gives or takes back.
pub const ADDRESSES_AT_ONCE: usize = 100;

/// Gives addresses of `range` to the services that ask for one, and takes back those that are of
/// no use. Without a range those that were given stay where they are.
pub(super) fn decide(
    view: &View,
    range: Option<&VirtualRange>,
    now_ms: u64,
    decision: &mut Decision,
) {
    let mut pass = Pass { view, range, now_ms, changes: Vec::new() };
    let mut lacking = wanted(view);
    let mut taken: BTreeSet<IpAddr> = view.claims.keys().copied().collect();
    pass.keep(&mut lacking);
    let restored = pass.restore(&mut lacking);
    pass.forget(&restored);
    let mut count = pass.active();
    for service in lacking {
        match pass.give(&service, &mut taken, count) {
            Ok(()) => count += 1,
            Err(cause) => _ = decision.unaddressed.insert(service, cause),
        }
    }
    for (change, note) in pass.changes.into_iter().take(ADDRESSES_AT_ONCE) {
        decision.then.push(change);
        decision.notes.extend(note);
    }
}

/// The services that ask for an address.
fn wanted(view: &View) -> BTreeSet<ServiceName> {
    let asks = view
        .data
        .services()
        .filter(|(_, entry)| entry.declared && entry.service.wants_virtual().is_some());
    asks.map(|(name, _)| name.clone()).collect()
}

struct Pass<'v> {
    view: &'v View,
    range: Option<&'v VirtualRange>,
    now_ms: u64,
    /// Each with what the log says of it.
    changes: Vec<(Change, Option<String>)>,
}

impl Pass<'_> {
    /// Whether a claim of this address may be used on.
    fn fits(&self, address: IpAddr) -> bool {
        self.range.is_none_or(|range| range.gives(address))
    }

    /// Whether what a service wants is not known, because a record of it cannot be read.
    fn is_unknown(&self, service: &ServiceName) -> bool {
        let keys = [Key::Service(service.clone()), Key::Virtual(service.clone())];
        keys.iter().any(|key| self.view.unreadable.contains_key(key))
    }

    /// Who has an address keeps it, or gives it back if it has no use for it. The others are left
    /// in `lacking`.
    fn keep(&mut self, lacking: &mut BTreeSet<ServiceName>) {
        let view = self.view;
        for (address, stored) in &view.claims {
            let claim = &*stored.record;
            if claim.released_ms.is_some() {
                continue;
            }
            let is_wanted = lacking.remove(&claim.service);
            if is_wanted && self.fits(*address) || self.is_unknown(&claim.service) {
                continue;
            }
            // Another range: the next pass gives it one there.
            let record = Key::Virtual(claim.service.clone());
            let Some(seen) = view.modified(&record) else { continue };
            let released = AddressClaim { released_ms: Some(self.now_ms), ..claim.clone() };
            let key = Key::Claim(*address);
            let change = Change::new().change(&key, stored.modified, &released);
            let note = format!("{} gives {address} back", claim.service);
            self.changes.push((change.delete(&record, seen), Some(note)));
        }
    }

    /// Who has given an address back not long ago gets it again.
    fn restore(&mut self, lacking: &mut BTreeSet<ServiceName>) -> BTreeSet<IpAddr> {
        let mut restored = BTreeSet::new();
        for (address, stored) in &self.view.claims {
            let claim = &*stored.record;
            let is_released = claim.released_ms.is_some() && self.fits(*address);
            if !is_released || !lacking.remove(&claim.service) {
                continue;
            }
            let again = AddressClaim { released_ms: None, ..claim.clone() };
            let change = Change::new().change(&Key::Claim(*address), stored.modified, &again);
            let record = VirtualAddress { service: claim.service.clone(), address: *address };
            let change = change.make(&Key::Virtual(claim.service.clone()), &record);
            let note = format!("{} has {address} again", claim.service);
            self.changes.push((change, Some(note)));
            restored.insert(*address);
        }
        restored
    }

    /// What was given back long ago, and is not `restored`, is free.
    fn forget(&mut self, restored: &BTreeSet<IpAddr>) {
        let released_for = u64::try_from(RELEASED_FOR.as_millis()).unwrap_or(u64::MAX);
        for (address, stored) in &self.view.claims {
            let since = stored.record.released_ms;
            let is_old =
                since.is_some_and(|since| since.saturating_add(released_for) <= self.now_ms);
            if is_old && !restored.contains(address) {
                let change = Change::new().delete(&Key::Claim(*address), stored.modified);
                self.changes.push((change, None));
            }
        }
    }

    /// How many services have an address.
    fn active(&self) -> usize {
        let claims = self.view.claims.values();
        claims.filter(|stored| stored.record.released_ms.is_none()).count()
    }

    /// Gives a service its address, if one is free.
    fn give(
        &mut self,
        service: &ServiceName,
        taken: &mut BTreeSet<IpAddr>,
        count: usize,
    ) -> Result<(), String> {
        let Some(range) = self.range else {
            return Err("the node that leads has no router.virtual_addresses".to_owned());
        };
        if count >= VIRTUAL_ADDRESSES_MAX {
            return Err(format!("{VIRTUAL_ADDRESSES_MAX} services have one, and no more may"));
        }
        let chosen = range.choose(service, |address| taken.contains(&address));
        let Some(address) = chosen else {
            return Err(format!("all {} addresses of {range} are taken", range.capacity()));
        };
        taken.insert(address);
        let claim = AddressClaim { address, service: service.clone(), released_ms: None };
        let record = VirtualAddress { service: service.clone(), address };
        let change = Change::new().make(&Key::Claim(address), &claim);
        let change = change.make(&Key::Virtual(service.clone()), &record);
        let note = format!("{service} gets the virtual address {address}");
        self.changes.push((change, Some(note)));
        Ok(())
    }
}
