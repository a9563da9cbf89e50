//! Reading a file at an offset, without a shared cursor and without a map.
//!
//! A positioned read of a file that has become shorter is an error that can be reported; a read through a memory map is
//! a signal that ends the process. So nothing in this crate is mapped, and nothing in it is `unsafe`.

use std::fs::File;
use std::io;

/// A file that many threads may read at once.
#[derive(Debug)]
pub(crate) struct PositionedFile {
    file: File,
    /// Guards the one cursor where the system offers no positioned reads.
    #[cfg(not(unix))]
    cursor: std::sync::Mutex<()>,
}

impl PositionedFile {
    pub fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(not(unix))]
            cursor: std::sync::Mutex::new(()),
        }
    }

    /// Fills `out` from byte `offset` on; an early end of the file is `UnexpectedEof`.
    #[cfg(unix)]
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    /// Fills `out` from byte `offset` on; an early end of the file is `UnexpectedEof`.
    #[cfg(not(unix))]
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        // The cursor holds no state between calls, so a panic elsewhere can't have left it wrong.
        let _guard = self.cursor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}
