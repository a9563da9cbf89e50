//! Reading a file at an offset, without a shared cursor and without a memory map.
//!
//! If a file has become shorter, a positioned read returns an error, while a read through a memory map raises a signal
//! that ends the process. So this crate maps nothing, and has no `unsafe`.

use std::fs::File;
use std::io;

/// A file that many threads may read at once.
#[derive(Debug)]
pub(crate) struct PositionedFile {
    file: File,
    /// Guards the one cursor, for systems without positioned reads.
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
        // Every call sets the cursor anew, so it doesn't matter where a panic has left it.
        let _guard = self.cursor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}
