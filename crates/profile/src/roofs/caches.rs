//! The sizes of the caches.

use std::fs;
use std::path::Path;

/// Bytes of a core's caches; common sizes if the system doesn't state them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSizes {
    /// The second level; each core has its own.
    pub l2: usize,
    /// The third level; on most CPUs cores share it.
    pub l3: usize,
}

impl CacheSizes {
    /// Sizes if the system states none.
    const COMMON: Self = Self { l2: 1 << 20, l3: 32 << 20 };

    /// Reads the sizes that the system states for its first CPU.
    pub fn read() -> Self {
        Self::read_from(Path::new("/sys/devices/system/cpu/cpu0/cache"))
    }

    fn read_from(folder: &Path) -> Self {
        let mut sizes = Self::COMMON;
        let (mut found_l2, mut found_l3) = (false, false);
        for index in 0..8 {
            let text = |name: &str| fs::read_to_string(folder.join(format!("index{index}")).join(name)).ok();
            let (Some(level), Some(size)) = (text("level"), text("size").and_then(|size| bytes(size.trim()))) else {
                continue;
            };
            match level.trim() {
                "2" => (sizes.l2, found_l2) = (size, true),
                "3" => (sizes.l3, found_l3) = (size, true),
                _ => {}
            }
        }
        if found_l2 && !found_l3 {
            // The CPU has no third level.
            sizes.l3 = sizes.l2;
        }
        sizes
    }
}

/// The number of bytes in `512K` or `32M`.
fn bytes(text: &str) -> Option<usize> {
    let unit = text.chars().last()?;
    let factor = match unit {
        'K' => 1 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        _ => return text.parse().ok().filter(|n| *n > 0),
    };
    text[..text.len() - 1].parse::<usize>().ok()?.checked_mul(factor).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(["32768K", "1M", "2G", "512"].map(bytes), [Some(32 << 20), Some(1 << 20), Some(2 << 30), Some(512)]);
        assert_eq!(["", "K", "x", "-1K", "0K", "9999999999999999999M"].map(bytes), [None; 6]);
    }

    #[test]
    fn a_silent_system_has_common_sizes() {
        assert_eq!(CacheSizes::read_from(Path::new("/nonexistent")), CacheSizes::COMMON);
        let here = CacheSizes::read();
        assert!(here.l2 > 0 && here.l3 >= here.l2, "{here:?}");
    }
}
