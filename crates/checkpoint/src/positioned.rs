//! Reading a file at an offset, without a shared cursor and without a memory map.
//!
//! If a file has become shorter, a positioned read returns an error, while a read through a memory map raises a signal
//! that ends the process. So this crate maps nothing, and has no `unsafe`.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::CheckpointError;

/// Bytes that can be read at any position.
pub(crate) trait ReadAt {
    /// Fills `out` from byte `offset` on; an early end is `UnexpectedEof`.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Opens a file of ordinary bytes; answers it and its length. `wanted` says what to name where it is no file.
pub(crate) fn open_file(path: &Path, wanted: &'static str) -> Result<(PositionedFile, u64), CheckpointError> {
    // Checked before it is opened, as opening a pipe would wait.
    let kind = fs::metadata(path).map_err(CheckpointError::io(path, "open"))?;
    if !kind.is_file() {
        return Err(CheckpointError::Missing { path: path.to_path_buf(), what: wanted });
    }
    let file = File::open(path).map_err(CheckpointError::io(path, "open"))?;
    let len = file.metadata().map_err(CheckpointError::io(path, "read the size of"))?.len();
    Ok((PositionedFile::new(file), len))
}

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
}

impl ReadAt for PositionedFile {
    #[cfg(unix)]
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(not(unix))]
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        // Every call sets the cursor anew, so it doesn't matter where a panic has left it.
        let _guard = self.cursor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}

/// A file that is in memory already.
impl ReadAt for &[u8] {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let part = rest.and_then(|rest| rest.get(..out.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }
}
