//! Reading files with a bound on their size.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{ContentError, DataError};

/// The most bytes of one data file that are read, before and after decompression.
pub(crate) const MOST_DATA: u64 = 2 << 30;

/// The bytes of a file, which may be `most` long.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, DataError> {
    let fault = |reason| DataError::Read { path: path.to_owned(), reason };
    let file = File::open(path).map_err(fault)?;
    let length = file.metadata().map_err(fault)?.len();
    let mut bytes = Vec::new();
    // Devices and pipes say they are empty: the bound holds for what is read, too.
    if length <= most {
        bytes.try_reserve_exact(length as usize + 1).map_err(|e| fault(e.into()))?;
        file.take(most + 1).read_to_end(&mut bytes).map_err(fault)?;
    }
    let found = length.max(bytes.len() as u64);
    if found > most {
        return Err(content(path, ContentError::TooLarge { found, most }));
    }
    Ok(bytes)
}

/// The first of the files `names` that is in `folder`, or in its sub-folder `sub`, as the official archives have it.
pub(crate) fn find(folder: &Path, sub: &str, names: &[String]) -> Result<PathBuf, DataError> {
    let places = [folder.to_owned(), folder.join(sub)];
    let mut candidates = places.iter().flat_map(|place| names.iter().map(|name| place.join(name)));
    candidates.find(|path| path.is_file()).ok_or_else(|| missing(folder, names.join(", ")))
}

/// Sorted paths in a folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let fault = |reason| DataError::Read { path: folder.to_owned(), reason };
    let entries = std::fs::read_dir(folder).map_err(fault)?;
    let mut paths =
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(fault)?;
    paths.sort();
    Ok(paths)
}

/// Zeros for the pixels of that many records.
pub(crate) fn reserve(records: usize, record_bytes: usize) -> Result<Vec<u8>, DataError> {
    let fault = || DataError::Memory { records, record_bytes };
    let bytes = records.checked_mul(record_bytes).ok_or_else(fault)?;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(bytes).map_err(|_| fault())?;
    pixels.resize(bytes, 0);
    Ok(pixels)
}

pub(crate) fn missing(folder: &Path, looked_for: String) -> DataError {
    DataError::Missing { folder: folder.to_owned(), looked_for }
}

pub(crate) fn content(file: &Path, problem: ContentError) -> DataError {
    DataError::Content { file: file.to_owned(), problem }
}
