//! Random bytes from the kernel.

use anyhow::{Result, anyhow};

/// Fills a new vector with random bytes.
pub fn bytes(count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("cannot get random bytes from the kernel: {error}"))?;
    Ok(bytes)
}

/// So many random bytes as hexadecimal digits.
pub fn hex(count: usize) -> Result<String> {
    Ok(hex::encode(bytes(count)?))
}
