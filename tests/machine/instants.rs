//! When a run is disturbed: at random, one instant in each of as many stretches of the same length.

use std::time::Duration;

/// `full` is ten instants, a number so many.
const HOW: &str = "KKRUN_SWEEP";
/// A number from which the instants follow; another one chooses others.
const SEED: &str = "KKRUN_SWEEP_SEED";

/// The instants of a run that takes so long. How to have them again is printed.
pub(crate) fn instants(salt: &str, took: Duration) -> Vec<Duration> {
    let seed: u64 = std::env::var(SEED).map_or_else(|_| now(), |text| text.parse().expect("a number"));
    let how = std::env::var(HOW).unwrap_or_else(|_| "1".to_owned());
    let count: u32 = if how == "full" { 10 } else { how.parse().expect("KKRUN_SWEEP is `full` or a number") };
    println!("{salt} at {count} instants, from {SEED}={seed}; ten: {HOW}=full");
    let at = |stretch: u32| took.mul_f64((f64::from(stretch) + part(seed, salt, stretch)) / f64::from(count));
    (0..count).map(at).collect()
}

/// A number from 0 to 1.
fn part(seed: u64, salt: &str, stretch: u32) -> f64 {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{seed}/{salt}/{stretch}"));
    f64::from(u16::from_le_bytes([digest[0], digest[1]])) / f64::from(u16::MAX)
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
