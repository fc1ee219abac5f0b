//! How long to wait before the next try: longer each time, and never the same for two hosts.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Exponential backoff: the n-th wait is `first` times two to the n, at most `most`; jitter takes away up to half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// No wait is longer.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(100), most: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The wait before a try.
    ///
    /// `tries` is how many have failed in a row before it, 0 for the first; `jitter` is a number in 0..1.
    pub fn wait(&self, tries: u32, jitter: f64) -> Duration {
        let factor = 2_u32.checked_pow(tries).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.most);
        whole - whole.mul_f64(jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// A random number in 0..1. The standard library has no other source, and this needs no better one.
pub(crate) fn random() -> f64 {
    const BITS: u32 = 53; // What an f64 holds exactly.
    let bits = RandomState::new().build_hasher().finish() >> (u64::BITS - BITS);
    bits as f64 / (1_u64 << BITS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(2) };

    #[test]
    fn each_wait_is_twice_as_long_up_to_the_longest() {
        let waits: Vec<u128> = (0..7).map(|tries| BACKOFF.wait(tries, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
    }

    #[test]
    fn jitter_takes_away_up_to_half() {
        assert_eq!(BACKOFF.wait(1, 0.5), Duration::from_millis(150));
        assert_eq!(BACKOFF.wait(1, 1.0), Duration::from_millis(100));
    }

    #[test]
    fn neither_many_tries_nor_wild_jitter_break_the_bounds() {
        assert_eq!(BACKOFF.wait(u32::MAX, 0.0), BACKOFF.most);
        assert_eq!(BACKOFF.wait(0, 17.0), Duration::from_millis(50));
        let patient = Backoff { first: Duration::MAX, most: Duration::MAX };
        assert_eq!(patient.wait(40, 0.0), Duration::MAX);
    }

    #[test]
    fn random_numbers_lie_between_zero_and_one_and_differ() {
        let numbers: Vec<f64> = (0..1000).map(|_| random()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let mean = numbers.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
