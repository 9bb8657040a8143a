//! Desired permission bits as chmod(1) takes them: octal digits, or clauses such as `u=rwX,go=rX`.

use serde::de::{Deserialize, Deserializer, Unexpected, Visitor};

/// The permission bits of something new: three or four octal digits as a string, `"0640"`. A number is refused: `0600`
/// is six hundred to a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::primitives) struct Mode(pub(in crate::primitives) u32);

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        let is_octal = matches!(text.len(), 3 | 4) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        if is_octal { u32::from_str_radix(text, 8).ok().map(Self) } else { None }
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading {
            expected: "three or four octal digits as a string, such as \"0640\"",
            parse: Self::parse,
        })
    }
}

impl<'de> Deserialize<'de> for DesiredMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading {
            expected: "a mode as a string, such as \"0640\" or \"u=rwX,go=rX\"",
            parse: Self::parse,
        })
    }
}

/// Reads an option that is a string of a certain form.
struct Reading<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Reading<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// The desired permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DesiredMode {
    /// These, whatever the present ones are.
    Exact(u32),
    /// Clauses, applied one after the other.
    Symbolic(Vec<Clause>),
}

/// One action for one selection of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    /// The selected users' permission bits, special ones included.
    who: u32,
    operator: Operator,
    /// The bits for all users, before the selection.
    bits: u32,
    /// `X`: execution where it is a directory, or anyone may execute it.
    conditional: bool,
    /// Whose present bits are taken: the shift of theirs.
    from: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const STICKY: u32 = 0o1000;

impl DesiredMode {
    fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            Mode::parse(text).map(|Mode(bits)| Self::Exact(bits))
        } else {
            text.split(',').map(clauses).collect::<Option<Vec<_>>>().map(|all| Self::Symbolic(all.concat()))
        }
    }

    /// The bits that something with these gets.
    pub(super) fn of(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Exact(bits) if is_directory => super::copy::enterable(*bits),
            Self::Exact(bits) => *bits,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode, |now, clause| clause.applied(now, mode, is_directory))
            }
        }
    }
}

impl Clause {
    fn applied(&self, now: u32, original: u32, is_directory: bool) -> u32 {
        let mut bits = self.bits;
        if self.conditional && (is_directory || original & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.from {
            let theirs = (now >> shift) & 7;
            bits |= theirs << 6 | theirs << 3 | theirs;
        }
        let bits = bits & self.who;
        match self.operator {
            Operator::Add => now | bits,
            Operator::Remove => now & !bits,
            Operator::Set => {
                // As chmod does: a directory keeps its special bits unless they are named.
                let special = if is_directory { SET_USER | SET_GROUP } else { 0 };
                (now & !(self.who & !special)) | bits
            }
        }
    }
}

/// The clauses of one selection, such as `go-w+X`.
fn clauses(text: &str) -> Option<Vec<Clause>> {
    let actions = text.find(['+', '-', '='])?;
    let mut who = 0;
    for letter in text[..actions].chars() {
        who |= match letter {
            'u' => 0o700 | SET_USER,
            'g' => 0o070 | SET_GROUP,
            'o' => 0o007 | STICKY,
            'a' => 0o7777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o7777;
    }
    let mut clauses = Vec::new();
    for letter in text[actions..].chars() {
        let operator = match letter {
            '+' => Some(Operator::Add),
            '-' => Some(Operator::Remove),
            '=' => Some(Operator::Set),
            _ => None,
        };
        if let Some(operator) = operator {
            clauses.push(Clause { who, operator, bits: 0, conditional: false, from: None });
            continue;
        }
        let clause = clauses.last_mut()?;
        match letter {
            'r' => clause.bits |= 0o444,
            'w' => clause.bits |= 0o222,
            'x' => clause.bits |= 0o111,
            'X' => clause.conditional = true,
            's' => clause.bits |= SET_USER | SET_GROUP,
            't' => {
                clause.bits |= STICKY;
                clause.who |= STICKY;
            }
            'u' => clause.from = Some(6),
            'g' => clause.from = Some(3),
            'o' => clause.from = Some(0),
            _ => return None,
        }
    }
    Some(clauses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::testing;
    use crate::machine::process::{Command, Status};

    #[test]
    fn modes_mean_what_chmod_makes_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let world = testing::world(directory.path());
        let (file, inner) = (directory.path().join("file"), directory.path().join("inner"));
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir(&inner).unwrap();
        let modes = [
            "g-w",
            "u=rwX,go=rX",
            "a+x",
            "o=",
            "go=u",
            "u+s,g+s",
            "+t",
            "u=rw,g=r,o=",
            "a=rX",
            "ug+rw-x",
            "go-rwx",
            "a-s",
            "o+t",
            "g=u-w",
        ];
        for desired in modes {
            for mode in [0o644_u32, 0o755, 0o600, 0o4775, 0o1777, 0o000] {
                for (path, is_directory) in [(&file, false), (&inner, true)] {
                    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
                    std::fs::set_permissions(path, permissions).unwrap();
                    let path_text = path.to_str().unwrap();
                    let chmod =
                        ["sh", "-c", "umask 0; exec chmod -- \"$1\" \"$2\"", "sh", desired, path_text];
                    // Started as kkrun starts commands: its reaping takes any other child for a leftover.
                    assert_eq!(world.look(&Command::new(chmod)).unwrap().status, Status::Code(0));
                    let made = std::fs::metadata(path).unwrap();
                    let made = std::os::unix::fs::MetadataExt::mode(&made) & 0o7777;
                    let meant = DesiredMode::parse(desired).unwrap().of(mode, is_directory);
                    assert_eq!(
                        meant, made,
                        "{desired} of {mode:04o}, directory: {is_directory}: {meant:04o} {made:04o}"
                    );
                }
            }
        }
    }

    #[test]
    fn octal_digits_let_directories_be_entered_and_nonsense_is_refused() {
        let desired = DesiredMode::parse("0640").unwrap();
        assert_eq!((desired.of(0o777, false), desired.of(0o777, true)), (0o640, 0o750));
        for nonsense in ["", "rw", "u", "z+r", "u+q", "9", "77777", "u=rw,,g=r"] {
            assert!(DesiredMode::parse(nonsense).is_none(), "{nonsense}");
        }
    }
}
