//! Candidates on a line, each as long as its weight: a point on it is one of them.

/// Weights below 2^16, of at most 2^16 candidates: their sum fits 32 bits.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// The sum of the weights up to and with each candidate; empty when all are equal.
    cumulative: Box<[u32]>,
    sum: u32,
}

impl Weights {
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Self {
        let first = weights.clone().next();
        if weights.clone().all(|weight| Some(weight) == first) {
            let sum = u32::try_from(weights.count()).expect("at most 2^16");
            return Self { cumulative: Box::default(), sum };
        }
        let cumulative: Box<[u32]> = weights
            .scan(0, |sum: &mut u32, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let sum = cumulative.last().copied().unwrap_or(0);
        Self { cumulative, sum }
    }

    pub(super) fn are_equal(&self) -> bool {
        self.cumulative.is_empty()
    }

    /// The length of the line: where all are equal, each counts for one.
    pub(super) fn sum(&self) -> u32 {
        self.sum
    }

    /// The candidate at a point below the sum.
    #[inline]
    pub(super) fn at(&self, point: u32) -> usize {
        if self.cumulative.is_empty() {
            point as usize
        } else {
            self.cumulative.partition_point(|sum| *sum <= point)
        }
    }

    /// Draws one by weight; there has to be one.
    #[inline]
    pub(super) fn draw(&self, random: u32) -> usize {
        self.at(scale(random, self.sum))
    }

    /// Draws by weight among all but `first`: its span is cut out of the line. There have to be
    /// two.
    #[inline]
    pub(super) fn draw_other(&self, first: usize, random: u32) -> usize {
        let (start, span) = match first.checked_sub(1) {
            _ if self.cumulative.is_empty() => (u32::try_from(first).expect("below 2^16"), 1),
            None => (0, self.cumulative[0]),
            Some(before) => {
                let start = self.cumulative[before];
                (start, self.cumulative[first] - start)
            }
        };
        let point = scale(random, self.sum - span);
        self.at(if point < start { point } else { point + span })
    }
}

/// Maps a random number to 0..`bound` without a division.
#[inline]
pub(crate) fn scale(random: u32, bound: u32) -> u32 {
    ((u64::from(random) * u64::from(bound)) >> 32) as u32
}

/// A second random number from the first, for another decision of the same request
/// (the finaliser of splitmix64).
#[inline]
pub(crate) fn mix(random: u64) -> u64 {
    let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
