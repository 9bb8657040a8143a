//! Bytes as lower-case hexadecimal digits.

use anyhow::{Context, Result, ensure};

/// Two digits for each byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// The bytes that [`encode`] wrote. An error for anything but pairs of hexadecimal digits.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok()))
        .collect::<Option<_>>()
        .context("not hexadecimal digits")?;
    ensure!(digits.len().is_multiple_of(2), "an odd number of hexadecimal digits");
    Ok(digits.chunks_exact(2).map(|pair| (pair[0] << 4) | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        assert_eq!(encode(&[0, 255]), "00ff");
        assert!(decode("0").is_err() && decode("0g").is_err());
    }
}
