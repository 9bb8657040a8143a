//! Secrets of which the value is not kept: each text by which one is recognised is remembered by its length and by keyed
//! hashes, and found again by hashing what is about to be shown.
//!
//! Hashing every part of a text would take too long. So a text is first sieved by its first eight bytes: a keyed hash of
//! them that costs a multiplication and lets one of a million parts pass. What is kept of it is hidden behind the other
//! hash, so that it tells nothing to who does not have the key.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Spans, is_long, mark, texts_of};

/// Hashes parts, one after the other, under a key.
pub type Keyed = dyn Fn(&[&[u8]]) -> [u8; 32];

/// How many bits the sieve looks at.
const SIEVE_BITS: u32 = 20;
/// How many bytes it looks at: no text that is looked for is shorter.
const SIEVED: usize = 8;

/// What is kept of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The plan that was given it.
    pub plan: String,
    /// Its name.
    pub name: String,
    /// The texts by which it is recognised.
    texts: Vec<Text>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Text {
    /// In bytes.
    length: usize,
    hash: String,
    sieve: u32,
}

impl Remembered {
    /// What is kept of this value: of one that is too short to be looked for, that there was one.
    pub fn of(plan: &str, name: &str, value: &str, key: &Keyed) -> Self {
        let sieve = Sieve::of(key);
        let text = |text: String| {
            let hash = hash_of(text.as_bytes(), key);
            let sieve = sieve.of_first(text.as_bytes())? ^ cover(&hash, key);
            Some(Text { length: text.len(), hash: hex::encode(hash), sieve })
        };
        let texts = if is_long(value) { texts_of(value) } else { Vec::new() };
        let texts = texts.into_iter().filter_map(text).collect();
        Self { plan: plan.to_owned(), name: name.to_owned(), texts }
    }
}

fn hash_of(text: &[u8], key: &Keyed) -> [u8; 32] {
    key(&[b"secret\0", text])
}

/// What hides the sieve's bits of a text.
fn cover(hash: &[u8; 32], key: &Keyed) -> u32 {
    let cover = key(&[b"cover\0", hash]);
    u32::from_le_bytes([cover[0], cover[1], cover[2], cover[3]]) >> (32 - SIEVE_BITS)
}

#[derive(Clone, Copy, Default)]
struct Sieve {
    flip: u64,
    factor: u64,
}

impl Sieve {
    fn of(key: &Keyed) -> Self {
        let hash = key(&[b"sieve\0"]);
        let part = |at: usize| hash[at..at + 8].iter().fold(0, |part, byte| part << 8 | u64::from(*byte));
        Self { flip: part(0), factor: part(8) | 1 }
    }

    fn of_first(self, text: &[u8]) -> Option<u32> {
        let first = u64::from_le_bytes(*text.first_chunk::<SIEVED>()?);
        // Of a product only the upper half depends on all of the factors.
        let mixed = u128::from(first ^ self.flip) * u128::from(self.factor);
        let mixed = u64::try_from(mixed >> 32 & u128::from(u64::MAX)).unwrap_or_default();
        u32::try_from(mixed >> (64 - SIEVE_BITS)).ok()
    }
}

/// Looks for what is remembered.
#[derive(Default)]
pub(super) struct Recalled {
    /// With the key; none if nothing is remembered.
    of: Option<Of>,
}

struct Of {
    key: Box<Keyed>,
    sieve: Sieve,
    /// A bit for each value of the sieve.
    passes: Vec<u64>,
    /// By the sieve: the length, the hash and the mark.
    texts: HashMap<u32, Vec<(usize, [u8; 32], String)>>,
}

impl Recalled {
    pub(super) fn of(remembered: &[Remembered], key: Box<Keyed>) -> Self {
        if remembered.is_empty() {
            return Self::default();
        }
        let mut passes = vec![0; 1 << (SIEVE_BITS - 6)];
        let mut texts: HashMap<u32, Vec<_>> = HashMap::new();
        for one in remembered {
            for text in &one.texts {
                let mut hash = [0; 32];
                if hex::decode_to_slice(&text.hash, &mut hash).is_err() {
                    continue;
                }
                let sieve = (text.sieve ^ cover(&hash, &*key)) & ((1 << SIEVE_BITS) - 1);
                passes[sieve as usize / 64] |= 1_u64 << (sieve % 64);
                texts.entry(sieve).or_default().push((text.length, hash, mark(&one.name)));
            }
        }
        let sieve = Sieve::of(&*key);
        Self { of: Some(Of { key, sieve, passes, texts }) }
    }

    pub(super) fn knows_any(&self) -> bool {
        self.of.is_some()
    }

    pub(super) fn spans(&self, bytes: &[u8]) -> Spans<'_> {
        let (mut spans, mut from) = (Spans::new(), 0);
        let Some(of) = &self.of else { return spans };
        while from < bytes.len() {
            let candidates = of.candidates(&bytes[from..]).filter_map(|(length, hash, mark)| {
                let part = bytes.get(from..from + length)?;
                (hash_of(part, &*of.key) == *hash).then_some((*length, &**mark))
            });
            match candidates.max() {
                Some((length, mark)) => {
                    spans.push((from..from + length, mark));
                    from += length;
                }
                None => from += 1,
            }
        }
        spans
    }

    /// From where on one may begin that is longer than the text. What is shorter than what the sieve looks at may be the
    /// beginning of any: a hash of less would give it away.
    pub(super) fn may_begin_at_end_of(&self, bytes: &[u8]) -> Option<usize> {
        let of = self.of.as_ref()?;
        let behind = self.spans(bytes).last().map_or(0, |(span, _)| span.end);
        let is_longer =
            |at: &usize| of.candidates(&bytes[*at..]).any(|(length, ..)| at + length > bytes.len());
        let begins = (behind..bytes.len()).find(is_longer);
        let unknown = bytes.len().saturating_sub(SIEVED - 1).max(behind);
        begins.into_iter().chain((unknown < bytes.len()).then_some(unknown)).min()
    }
}

impl Of {
    /// The texts that the beginning of these bytes may be the beginning of.
    fn candidates(&self, bytes: &[u8]) -> impl Iterator<Item = &(usize, [u8; 32], String)> {
        let sieve = self.sieve.of_first(bytes);
        let passed = sieve.filter(|sieve| self.passes[*sieve as usize / 64] >> (sieve % 64) & 1 == 1);
        passed.and_then(|sieve| self.texts.get(&sieve)).into_iter().flatten()
    }
}
