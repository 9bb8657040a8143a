//! Login passwords, hashed by the machine's own crypt(3). perl calls it: Debian always has that, and only the machine's own
//! library is sure to take every hash that the machine knows.

use anyhow::{Result, bail};
use zeroize::Zeroizing;

use super::World;
use crate::failure::{Failure, FailureKind};
use crate::machine::process::{Command, Stdin};
use crate::machine::random;

/// Prints the hash of a password with a setting, from standard input: nothing of either is in a list of processes.
const SCRIPT: &str = r#"binmode STDIN; local $/; my ($password, $setting) = split /\0/, <STDIN>, 2; print crypt($password, $setting) // "";"#;
/// What a setting begins with: the method of a new Debian, and one that every crypt(3) has. Source: crypt(5).
const METHODS: [&str; 2] = ["$y$j9T$", "$6$"];
/// The letters of a salt. Source: crypt(5).
const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How many letters a salt has: most methods take no more.
const SALT: usize = 16;

/// Whether this is a hash of the password.
///
/// # Errors
/// When perl cannot be run.
pub fn is_of(world: &World, password: &str, hash: &str) -> Result<bool> {
    Ok(crypt(world, password, hash)?.as_str() == hash)
}

/// A new hash of the password.
///
/// # Errors
/// When perl cannot be run, or crypt(3) knows no method.
pub fn hashed(world: &World, password: &str) -> Result<Zeroizing<String>> {
    let bytes = random::bytes(SALT)?;
    let salt: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte & 63)])).collect();
    for method in METHODS {
        let hash = crypt(world, password, &format!("{method}{salt}$"))?;
        if hash.starts_with(method) {
            return Ok(hash);
        }
    }
    bail!(
        Failure::new("cannot hash the password: crypt(3) of this machine takes neither yescrypt nor SHA-512")
            .kind(FailureKind::Missing)
            .hint("give the hash itself with the option `password_hash`")
    )
}

fn crypt(world: &World, password: &str, setting: &str) -> Result<Zeroizing<String>> {
    let mut command = Command::new(["perl", "-e", SCRIPT]);
    let input = Zeroizing::new(format!("{password}\0{setting}"));
    command.stdin = Stdin::Bytes(input.as_bytes().to_vec().into());
    let ended = world.look(&command)?;
    if !ended.is_success() {
        let why = ended.tail.last().map(|line| format!(": {line}")).unwrap_or_default();
        bail!(
            Failure::new(format!("cannot hash the password: perl {}{why}", ended.status))
                .kind(FailureKind::Missing)
        );
    }
    Ok(Zeroizing::new(ended.stdout.text()))
}
