//! The same candidate for the same key: the table of Maglev (Eisenbud et al., NSDI 2016, §3.4),
//! by weight. Each candidate takes slots in an order of its own, made from its name alone, so
//! all routers of a cluster agree, and one candidate less moves little more than its own keys.

use std::sync::Arc;

use super::key;

/// The sizes of tables, prime, and the most candidates that each is for: over a hundred slots
/// for each of them, so that shares are exact to about a hundredth, as long as there is a size.
/// Few, because where one ends nearly all keys move.
const SIZES: [(usize, u32); 3] = [(8, 1_021), (64, 8_191), (usize::MAX, SLOTS_MAX)];

/// The size of the largest table: 128 KiB.
const SLOTS_MAX: u32 = 65_537;

/// Slots with the indices of candidates.
#[derive(Debug)]
pub(super) struct Maglev {
    slots: Arc<[u16]>,
    /// What the slots were made from.
    print: u64,
}

impl Maglev {
    /// Names and weights of the candidates, of which there are at most 2^16. The slots of
    /// `previous` are shared if they would come out the same.
    pub(super) fn new<'n>(
        candidates: impl Iterator<Item = (&'n str, u32)> + Clone,
        previous: Option<&Self>,
    ) -> Self {
        let print = candidates.clone().fold(0, |print, (name, weight)| {
            key::join(print, key::of(name.as_bytes()) ^ u64::from(weight))
        });
        if let Some(before) = previous.filter(|before| before.print == print) {
            return Self { slots: Arc::clone(&before.slots), print };
        }
        Self { slots: fill(candidates).into(), print }
    }

    /// The candidates in the order in which they are asked for the key. Some come again and
    /// again: whoever looks for one that can be had looks for long only if there is hardly one.
    pub(super) fn candidates(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = if self.slots.is_empty() { 0 } else { key as usize % self.slots.len() };
        let (before, from) = self.slots.split_at(start);
        from.iter().chain(before).map(|index| usize::from(*index))
    }
}

/// A candidate's way through the slots.
struct Walk {
    place: u32,
    step: u32,
    weight: u64,
    /// What it has taken in slots, times the largest weight.
    taken: u64,
}

impl Walk {
    fn next(&mut self, size: u32) -> u32 {
        let place = self.place;
        // Below twice 65,537.
        self.place = (place + self.step) % size;
        place
    }
}

fn fill<'n>(candidates: impl Iterator<Item = (&'n str, u32)> + Clone) -> Vec<u16> {
    const FREE: u32 = u32::MAX;
    let count = candidates.clone().count();
    let size = SIZES.iter().find(|(most, _)| count <= *most).map_or(SLOTS_MAX, |(_, size)| *size);
    let mut walks: Vec<Walk> = candidates
        .map(|(name, weight)| {
            let hash = key::of(name.as_bytes());
            let (place, step) = ((hash >> 32) as u32 % size, hash as u32 % (size - 1) + 1);
            Walk { place, step, weight: weight.into(), taken: 0 }
        })
        .collect();
    let Some(weight_max) = walks.iter().map(|walk| walk.weight).max() else { return Vec::new() };
    let mut slots = vec![FREE; size as usize];
    let mut free = size;
    for round in 1.. {
        for (index, walk) in walks.iter_mut().enumerate() {
            // The heaviest takes one each round, others when their part of the rounds is due.
            if round * walk.weight <= walk.taken {
                continue;
            }
            walk.taken += weight_max;
            let slot = loop {
                // It comes to each slot, and one is free.
                let place = walk.next(size) as usize;
                if slots[place] == FREE {
                    break &mut slots[place];
                }
            };
            *slot = u32::try_from(index).expect("at most 2^16");
            free -= 1;
            if free == 0 {
                return slots.into_iter().map(|index| index as u16).collect();
            }
        }
    }
    unreachable!("each round takes a slot")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(candidates: &[(String, u32)]) -> Maglev {
        Maglev::new(candidates.iter().map(|(name, weight)| (name.as_str(), *weight)), None)
    }

    fn named(count: usize, salt: u32) -> Vec<(String, u32)> {
        (0..count).map(|i| (format!("{salt}-{i}"), 100)).collect()
    }

    fn chosen(table: &Maglev, key: u64) -> usize {
        table.candidates(key).next().unwrap()
    }

    #[test]
    fn each_has_its_part_of_the_slots() {
        for weights in [&[100][..], &[100, 100, 100], &[100, 300], &[1, 2, 3, 4], &[1, 65_535]] {
            let candidates: Vec<_> =
                weights.iter().enumerate().map(|(i, weight)| (format!("i{i}"), *weight)).collect();
            let table = table(&candidates);
            let sum: u32 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let slots = table.slots.iter().filter(|slot| usize::from(**slot) == index).count();
                let part = slots as f64 / table.slots.len() as f64;
                let due = f64::from(*weight) / f64::from(sum);
                assert!((part - due).abs() < 0.005, "{weights:?} {index}: {part} of {due}");
            }
        }
    }

    #[test]
    fn the_table_of_the_same_candidates_is_shared() {
        let three = named(3, 0);
        let names = |all: &'static [(&'static str, u32)]| all.iter().copied();
        let first = Maglev::new(names(&[("a", 1), ("b", 2)]), None);
        let same = Maglev::new(names(&[("a", 1), ("b", 2)]), Some(&first));
        assert!(Arc::ptr_eq(&first.slots, &same.slots));
        for other in [names(&[("a", 2), ("b", 1)]), names(&[("a", 1), ("c", 2)])] {
            assert!(!Arc::ptr_eq(&first.slots, &Maglev::new(other, Some(&first)).slots));
        }
        assert_eq!(table(&three).slots, table(&three).slots, "and it is no accident");
        assert_eq!(table(&[]).candidates(7).next(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn one_candidate_less_moves_its_own_keys_and_few_others(
            (count, gone, salt) in (2..=64usize, any::<prop::sample::Index>(), any::<u32>())
                // The sizes of tables are not what this is about.
                .prop_filter("one size", |(count, ..)| *count != 9)
        ) {
            let all = named(count, salt);
            let gone = gone.index(count);
            let mut fewer = all.clone();
            fewer.remove(gone);
            let (before, after) = (table(&all), table(&fewer));
            let keys = 20_000u64;
            let mut moved = 0;
            for key in 0..keys {
                let key = super::super::weights::mix(key);
                let old = chosen(&before, key);
                let new = chosen(&after, key);
                let new = if new >= gone { new + 1 } else { new };
                moved += u64::from(old != new);
            }
            let due = keys / count as u64;
            // The paper's own tables move a few in a hundred more than they have to.
            prop_assert!(moved >= due * 8 / 10, "{moved} of {due}");
            prop_assert!(moved <= due * 12 / 10 + keys / 20, "{moved} of {due}");
        }
    }
}
