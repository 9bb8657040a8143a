//! Checksums of what is read back: records of the journal, and names that are shortened.

use crc::{CRC_32_ISCSI, Crc, Table};

/// Computed with tables alone. The processor's own instruction would be faster on megabytes, but a program has to ask for
/// it first, and a hypervisor takes longer to answer than the checksums of most runs take (docs/performance.md).
static CRC_32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// The CRC-32C (Castagnoli) of these bytes.
pub fn crc_32c(bytes: &[u8]) -> u32 {
    CRC_32C.checksum(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the catalogue of parametrised CRC algorithms, and one of RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc_32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc_32c(&[0; 32]), 0x8a91_36aa);
    }
}
