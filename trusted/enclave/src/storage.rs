//! The run directory: sealed files, the ledger, the job key, and a lock.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mechanism::{LedgerStore, StoreError};
use runtime::StorageError;
use zeroize::Zeroizing;

use crate::sealed::SealingKey;

const SUFFIX: &str = ".sealed";

/// Files of one run; nobody else has them while this exists.
pub(crate) struct Storage {
    directory: PathBuf,
    key: Zeroizing<[u8; 32]>,
    sealing: SealingKey,
    _lock: File,
}

impl Storage {
    /// A new run in `directory`, which must not hold one; the key file is made unless it exists.
    pub(crate) fn create(directory: &Path, key: &Path) -> Result<Self, StorageError> {
        fs::create_dir_all(directory).map_err(|e| failed(directory, e))?;
        if directory.join(format!("job{SUFFIX}")).exists() {
            let why = "there is a run here already; go on with --resume, or choose another --out".to_owned();
            return Err(StorageError { file: directory.display().to_string(), why });
        }
        if !key.exists() {
            make_key(key)?;
        }
        Storage::open(directory, key)
    }

    /// An existing run.
    pub(crate) fn open(directory: &Path, key: &Path) -> Result<Self, StorageError> {
        let lock = lock(&directory.join("lock"))?;
        let key = read_key(key)?;
        let sealing = SealingKey::derive(&key);
        Ok(Storage { directory: directory.to_owned(), key, sealing, _lock: lock })
    }

    pub(crate) fn job_key(&self) -> [u8; 32] {
        *self.key
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn save(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let path = self.path(&format!("{name}{SUFFIX}"));
        let sealed = self.sealing.seal(name, bytes).map_err(|e| failed(&path, e))?;
        write_atomically(&path, &sealed).map_err(|e| failed(&path, e))
    }

    pub(crate) fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let path = self.path(&format!("{name}{SUFFIX}"));
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, error)),
        };
        self.sealing.open(name, sealed).map(Some).map_err(|e| failed(&path, e.why()))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(&format!("{name}{SUFFIX}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&path, error)),
            _ => Ok(()),
        }
    }

    pub(crate) fn names(&self) -> Result<Vec<String>, StorageError> {
        let entries = fs::read_dir(&self.directory).map_err(|e| failed(&self.directory, e))?;
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.ok()?.file_name().to_str()?.strip_suffix(SUFFIX).map(str::to_owned)
        };
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// The ledger so far; a run that was never charged has none.
    pub(crate) fn ledger(&self) -> Result<Vec<u8>, StorageError> {
        let path = self.path("ledger");
        match fs::read(&path) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(&path, error)),
        }
    }

    pub(crate) fn ledger_store(&self) -> Result<LedgerFile, StorageError> {
        let path = self.path("ledger");
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| failed(&path, e))?;
        sync_directory(&self.directory).map_err(|e| failed(&path, e))?;
        Ok(LedgerFile { file })
    }

    pub(crate) fn truncate_ledger(&self, intact: usize) -> Result<(), StorageError> {
        let path = self.path("ledger");
        let file = OpenOptions::new().write(true).open(&path).map_err(|e| failed(&path, e))?;
        file.set_len(intact as u64).and_then(|()| file.sync_all()).map_err(|e| failed(&path, e))
    }
}

/// The ledger's file; every line is on disk before `append_durably` returns.
pub(crate) struct LedgerFile {
    file: File,
}

impl LedgerStore for LedgerFile {
    fn append_durably(&mut self, line: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_all(line)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| StoreError(format!("ledger: {e}")))
    }
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| failed(path, e))?;
    file.try_lock()
        .map_err(|_| failed(path, "another process has this run open; wait for it, or stop it"))?;
    Ok(file)
}

fn make_key(path: &Path) -> Result<(), StorageError> {
    let mut key = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *key).map_err(|e| failed(path, e))?;
    let temporary = path.with_extension("tmp");
    let _ = fs::remove_file(&temporary);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = file.map_err(|e| failed(&temporary, e))?;
    let written = file.write_all(&*key).and_then(|()| file.sync_all());
    // A link, not a rename: a key that another process made meanwhile is never replaced.
    written.and_then(|()| fs::hard_link(&temporary, path)).map_err(|e| failed(path, e))?;
    fs::remove_file(&temporary).map_err(|e| failed(&temporary, e))
}

fn read_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, StorageError> {
    let file = File::open(path);
    let mut file = file.map_err(|e| failed(path, format!("the run's key cannot be read: {e}")))?;
    let mut key = Zeroizing::new([0u8; 32]);
    let mut more = [0u8; 1];
    match file.read_exact(&mut *key).and_then(|()| file.read(&mut more)) {
        Ok(0) => Ok(key),
        _ => Err(failed(path, "a key file has exactly 32 bytes")),
    }
}

/// Writes beside `path`, then renames: readers see the old content or the new one, also after a crash.
fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

fn failed(path: &Path, why: impl std::fmt::Display) -> StorageError {
    StorageError { file: path.display().to_string(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("job.key");
        (directory, key)
    }

    #[test]
    fn saved_files_come_back_and_altered_ones_are_named() {
        let (directory, key) = storage();
        let storage = Storage::create(directory.path(), &key).unwrap();
        storage.save("checkpoint-1", b"one").unwrap();
        storage.save("checkpoint-1", b"two").unwrap();
        assert_eq!(storage.load("checkpoint-1").unwrap().unwrap(), b"two");
        assert_eq!(storage.load("checkpoint-2").unwrap(), None);
        assert_eq!(storage.names().unwrap(), ["checkpoint-1"]);
        let path = directory.path().join("checkpoint-1.sealed");
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = storage.load("checkpoint-1").unwrap_err();
        assert!(error.file.ends_with("checkpoint-1.sealed") && error.why.contains("altered"), "{error}");
    }

    #[test]
    fn one_process_at_a_time_and_no_second_run() {
        let (directory, key) = storage();
        let storage = Storage::create(directory.path(), &key).unwrap();
        assert!(Storage::open(directory.path(), &key).err().unwrap().why.contains("another process"));
        storage.save("job", b"spec").unwrap();
        drop(storage);
        assert!(Storage::create(directory.path(), &key).err().unwrap().why.contains("--resume"));
        assert!(Storage::open(directory.path(), &key).is_ok());
    }

    #[test]
    fn the_key_is_private_and_must_be_whole() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, key) = storage();
        drop(Storage::create(directory.path(), &key).unwrap());
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&key, [1; 31]).unwrap();
        assert!(Storage::open(directory.path(), &key).err().unwrap().why.contains("32 bytes"));
        fs::remove_file(&key).unwrap();
        assert!(Storage::open(directory.path(), &key).err().unwrap().why.contains("key"));
    }

    #[test]
    fn ledger_lines_are_appended() {
        let (directory, key) = storage();
        let storage = Storage::create(directory.path(), &key).unwrap();
        assert_eq!(storage.ledger().unwrap(), b"");
        storage.ledger_store().unwrap().append_durably(b"a\n").unwrap();
        storage.ledger_store().unwrap().append_durably(b"b").unwrap();
        assert_eq!(storage.ledger().unwrap(), b"a\nb");
        storage.truncate_ledger(2).unwrap();
        assert_eq!(storage.ledger().unwrap(), b"a\n");
    }
}
