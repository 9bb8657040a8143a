//! Passwords as servers keep them: computed here, so that no password is ever sent in clear.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// What a server stores instead of a password.
pub type Verifier = Zeroizing<String>;

/// A new verifier of a password, with a salt of its own.
pub fn verifier(password: &str) -> Verifier {
    Zeroizing::new(postgres_protocol::password::scram_sha_256(password.as_bytes()))
}

/// Whether this is the verifier of that password. An MD5 hash never matches, so that it is replaced. Sources: RFC 5802,
/// section 3; PostgreSQL manual, `pg_authid.rolpassword`.
pub fn fits(password: &str, verifier: &str) -> Result<bool> {
    let Some(rest) = verifier.strip_prefix("SCRAM-SHA-256$") else { return Ok(false) };
    let read = || {
        let (iterations, rest) = rest.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored, _) = keys.split_once(':')?;
        Some((iterations.parse::<u32>().ok()?, STANDARD.decode(salt).ok()?, STANDARD.decode(stored).ok()?))
    };
    let (iterations, salt, stored) = read().context("the server keeps a password in an unknown form")?;
    let password = stringprep::saslprep(password).unwrap_or_else(|_| password.into());
    let salted = salted(password.as_bytes(), &salt, iterations)?;
    let client_key = mac(&*salted, &[b"Client Key"])?;
    Ok(Sha256::digest(client_key).as_slice() == stored)
}

/// PBKDF2 with one block. Source: RFC 8018, section 5.2.
fn salted(password: &[u8], salt: &[u8], iterations: u32) -> Result<Zeroizing<[u8; 32]>> {
    let mut block = mac(password, &[salt, &1_u32.to_be_bytes()])?;
    let mut sum = Zeroizing::new(block);
    for _ in 1..iterations {
        block = mac(password, &[&block])?;
        sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    Ok(sum)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Result<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).context("a key that HMAC does not take")?;
    for part in parts {
        mac.update(part);
    }
    Ok(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_fits_its_password_alone() {
        for password in ["plain", "with 'all' of \"@/#$&%\\ it", "ünïcödé ﬁ"] {
            let made = verifier(password);
            assert!(fits(password, &made).unwrap(), "{password}");
            assert!(!fits("other", &made).unwrap());
            assert_ne!(*made, *verifier(password), "a salt of its own");
        }
    }

    #[test]
    fn a_verifier_of_the_old_kind_is_to_be_replaced() {
        assert!(!fits("secret", "md5f5a9c0b0f9f5a9c0b0f9f5a9c0b0f9f5").unwrap());
        assert!(fits("x", "SCRAM-SHA-256$nonsense").is_err());
    }
}
