//! Which of all positions are tried: every one, or some that lie spread over all.

use super::recovery::{BOTH, Doing};

/// `full` tries every position, a number so many times as many as usual.
const HOW: &str = "KKRUN_SWEEP";
/// A number from which the sample follows; another one chooses others.
const SEED: &str = "KKRUN_SWEEP_SEED";

#[derive(Clone, Copy)]
pub(crate) struct Sample {
    seed: u64,
    full: bool,
    times: usize,
}

impl Sample {
    /// As the variables say; reported, so that what failed can be tried again.
    pub(crate) fn reported() -> Self {
        let seed = std::env::var(SEED).ok().map_or(20_261_123, |text| text.parse().unwrap());
        let how = std::env::var(HOW).unwrap_or_else(|_| "1".to_owned());
        let full = how == "full";
        let times = if full { 1 } else { how.parse().expect("KKRUN_SWEEP is `full` or a number") };
        if full {
            println!("every position ({HOW}=full)");
        } else {
            println!("a sample of the positions, from {SEED}={seed}; all of them: {HOW}=full");
        }
        Self { seed, full, times }
    }

    pub(crate) fn is_full(self) -> bool {
        self.full
    }

    /// `some` of these, one from each of as many stretches of the same length; all in a full sweep.
    pub(crate) fn of<T>(self, items: Vec<T>, some: usize, salt: &str) -> Vec<T> {
        let (count, some) = (items.len(), some * self.times);
        if self.full || count <= some {
            return items;
        }
        let chosen: Vec<usize> = (0..some)
            .map(|stretch| {
                let (from, to) = (stretch * count / some, (stretch + 1) * count / some);
                from + self.number(&format!("{salt}/{stretch}")) % (to - from)
            })
            .collect();
        items.into_iter().enumerate().filter(|(at, _)| chosen.contains(at)).map(|(_, item)| item).collect()
    }

    /// So many of these, one from each of as many stretches, in a full sweep too.
    pub(crate) fn spread<T: Clone>(self, items: &[T], some: usize, salt: &str) -> Vec<T> {
        Self { full: false, times: 1, ..self }.of(items.to_vec(), some, salt)
    }

    /// The ways on that are tried: both, or one of them.
    pub(crate) fn ways(self, salt: &str) -> Vec<Doing> {
        if self.full { BOTH.to_vec() } else { vec![self.one(&BOTH, salt)] }
    }

    /// One of these.
    pub(crate) fn one<T: Copy>(self, items: &[T], salt: &str) -> T {
        items[self.number(salt) % items.len()]
    }

    fn number(self, salt: &str) -> usize {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(format!("{}/{salt}", self.seed));
        usize::from(digest[0]) << 16 | usize::from(digest[1]) << 8 | usize::from(digest[2])
    }
}
