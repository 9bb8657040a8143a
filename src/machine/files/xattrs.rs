//! Extended attributes of an open file: access control lists, file capabilities, and what users attach.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, flistxattr_query, fremovexattr, fsetxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::failures::failed;

/// The access control list of a file.
const ACL: &str = "system.posix_acl_access";
/// The access control list that what is made inside a directory gets.
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// The longest list of names and the longest value that Linux knows (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`
/// in limits.h), in bytes.
const LONGEST: usize = 65536;

/// The value of an extended attribute; in JSON its bytes in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Value(Vec<u8>);

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl TryFrom<String> for Value {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        Ok(Self(hex::decode(&text)?))
    }
}

impl From<Value> for String {
    fn from(value: Value) -> Self {
        hex::encode(&value.0)
    }
}

/// Whether kkrun keeps this attribute: `user.*` except an overlay's own, the two access control lists, and `security.*`
/// except the labels and seals that the kernel's security modules set on every new file.
pub fn is_kept(name: &str) -> bool {
    let by_the_kernel = ["security.selinux", "security.ima", "security.evm", "security.apparmor"];
    name.starts_with("user.") && !name.starts_with("user.overlay.")
        || name == ACL
        || name == DEFAULT_ACL
        || (name.starts_with("security.")
            && !by_the_kernel.contains(&name)
            && !name.starts_with("security.SMACK64"))
}

/// Whether setting this attribute takes more than owning the file.
pub(super) fn is_privileged(name: &str) -> bool {
    name.starts_with("security.")
}

/// The kept attributes of an open file; none if the file system does not support them.
pub(super) fn read(file: impl AsFd, shown: &Path) -> Result<BTreeMap<String, Value>> {
    match flistxattr_query(file.as_fd()) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Ok(_) => {}
        Err(errno) => return Err(failed("list the extended attributes of", shown, errno)),
    }
    let mut names: Vec<u8> = Vec::with_capacity(LONGEST);
    flistxattr(file.as_fd(), rustix::buffer::spare_capacity(&mut names))
        .map_err(|errno| failed("list the extended attributes of", shown, errno))?;
    let mut kept = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
        if !is_kept(name) {
            continue;
        }
        let mut value: Vec<u8> = Vec::with_capacity(LONGEST);
        match fgetxattr(file.as_fd(), name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => {
                value.shrink_to_fit();
                kept.insert(name.to_owned(), Value(value));
            }
            // Removed since the list was made.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(failed(&format!("read the attribute {name} of"), shown, errno)),
        }
    }
    Ok(kept)
}

/// Sets exactly these of the kept attributes on an open file. The mode must be set afterwards.
pub(super) fn write(file: impl AsFd, desired: &BTreeMap<String, Value>, shown: &Path) -> Result<()> {
    let present = read(file.as_fd(), shown)?;
    for name in present.keys().filter(|name| !desired.contains_key(*name)) {
        fremovexattr(file.as_fd(), name.as_str())
            .map_err(|errno| failed(&format!("remove the attribute {name} of"), shown, errno))?;
    }
    for (name, value) in desired.iter().filter(|(name, value)| present.get(*name) != Some(value)) {
        fsetxattr(file.as_fd(), name.as_str(), &value.0, XattrFlags::empty())
            .map_err(|errno| failed(&format!("set the attribute {name} of"), shown, errno))?;
    }
    Ok(())
}

/// What these attributes become when `mode` is set after them: the access control list shows the mode's
/// bits, and one that says no more than the mode vanishes.
pub(super) fn settled(given: &BTreeMap<String, Value>, mode: u32) -> BTreeMap<String, Value> {
    let mut settled = given.clone();
    if let Some(acl) = settled.get_mut(ACL) {
        match acl_with_mode(&acl.0, mode) {
            Some(bytes) => acl.0 = bytes,
            None => {
                settled.remove(ACL);
            }
        }
    }
    settled
}

/// A POSIX access control list (linux/posix_acl_xattr.h: version 2, then tag, permissions and id, little endian) after
/// chmod. `None` if it says no more than the mode.
fn acl_with_mode(acl: &[u8], mode: u32) -> Option<Vec<u8>> {
    const USER_OBJECT: u16 = 0x01;
    const GROUP_OBJECT: u16 = 0x04;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    let (header, entries) = acl.split_at_checked(4)?;
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    if entries.chunks_exact(8).all(|entry| [USER_OBJECT, GROUP_OBJECT, OTHER].contains(&tag(entry))) {
        return None;
    }
    let masked = entries.chunks_exact(8).any(|entry| tag(entry) == MASK);
    let mut bytes = header.to_vec();
    for entry in entries.chunks_exact(8) {
        let permissions = match tag(entry) {
            USER_OBJECT => Some(mode >> 6),
            MASK => Some(mode >> 3),
            GROUP_OBJECT if !masked => Some(mode >> 3),
            OTHER => Some(mode),
            _ => None,
        };
        let mut entry = entry.to_vec();
        if let Some(permissions) = permissions {
            entry[2] = u8::try_from(permissions & 7).unwrap_or(0);
            entry[3] = 0;
        }
        bytes.extend(entry);
    }
    Some(bytes)
}

/// An access control list that grants `user` these permissions besides what `mode` says.
#[cfg(test)]
pub(super) fn example_acl(mode: u32, user: u32, permissions: u16) -> (String, Value) {
    let mut bytes = vec![2, 0, 0, 0];
    let bits = |shift: u32| u16::try_from((mode >> shift) & 7).unwrap();
    let entries = [
        (0x01, bits(6), u32::MAX),
        (0x02, permissions, user),
        (0x04, 4, u32::MAX),
        (0x10, bits(3), u32::MAX),
        (0x20, bits(0), u32::MAX),
    ];
    for (tag, permissions, id) in entries {
        let (tag, permissions): (u16, u16) = (tag, permissions);
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    (ACL.to_owned(), Value(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_control_list_is_predicted_as_the_kernel_makes_it() {
        let file = tempfile::tempfile().unwrap();
        let desired = BTreeMap::from([example_acl(0o640, 1234, 6)]);
        write(&file, &desired, Path::new("x")).unwrap();
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o604)).unwrap();
        assert_eq!(read(&file, Path::new("x")).unwrap(), settled(&desired, 0o604));
        write(&file, &BTreeMap::new(), Path::new("x")).unwrap();
        assert_eq!(read(&file, Path::new("x")).unwrap(), BTreeMap::new());
    }

    #[test]
    fn labels_of_security_modules_are_left_to_them() {
        assert!(is_kept("user.x") && is_kept("security.capability") && is_kept(ACL) && is_kept(DEFAULT_ACL));
        assert!(
            !is_kept("security.selinux") && !is_kept("trusted.overlay.opaque") && !is_kept("system.nfs4_acl")
        );
    }
}
