//! The trusted process and the accelerator process of one command; neither outlives it.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use wire::spec::Address;

/// Environment variable with the folder of the other binaries.
pub const BIN_DIR: &str = "ASYMFLOW_BIN_DIR";

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// How the trusted process allocates, where it runs with glibc. Every large block goes back to the system when it is freed:
/// by default glibc keeps more the larger the blocks are that it has seen, and what is resident would be beyond what is
/// planned. And large blocks lie in huge pages where the system grants them, which a step's many buffers look up faster.
const ALLOCATOR: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072:glibc.malloc.hugetlb=1");
/// How long a worker may take to listen.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// A process that could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    #[error(
        "{} is not there; build it (`cargo build --release --bins`) or name its folder in {BIN_DIR}",
        path.display()
    )]
    NoProgram { path: PathBuf },
    #[error("cannot start {}: {source}", program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("cannot make a private folder for the accelerator's socket: {0}")]
    Folder(std::io::Error),
    #[error("the accelerator process ended before it listened ({0}); its own message is above")]
    WorkerEnded(ExitStatus),
    #[error("the accelerator process does not listen after {} s", START.as_secs())]
    WorkerSilent,
}

/// Child processes, ended on every way out.
#[derive(Default)]
pub struct Processes {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    enclave: Option<Child>,
    worker: Option<Child>,
    /// Holds the worker's socket; readable for this user only.
    folder: Option<TempDir>,
}

impl Processes {
    /// Starts the trusted process with one end of a socket as its standard input; returns the other end.
    ///
    /// # Errors
    /// [`ProcessError::NoProgram`], [`ProcessError::Start`].
    pub fn start_enclave(&self) -> Result<UnixStream, ProcessError> {
        let program = sibling("asymflow-enclave")?;
        let start = |source| ProcessError::Start { program: program.clone(), source };
        let (ours, theirs) = UnixStream::pair().map_err(start)?;
        let child = Command::new(&program)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .env(ALLOCATOR.0, ALLOCATOR.1)
            .process_group(0)
            .spawn()
            .map_err(start)?;
        self.lock().enclave = Some(child);
        Ok(ours)
    }

    /// Starts an accelerator on this machine; it ends when this process does, however that ends.
    ///
    /// # Errors
    /// [`ProcessError`] if it does not come to listen.
    pub fn start_worker(&self) -> Result<Address, ProcessError> {
        let program = sibling("asymflow-worker")?;
        let folder = tempfile::Builder::new().prefix("asymflow-").tempdir().map_err(ProcessError::Folder)?;
        let socket = folder.path().join("worker");
        let child = Command::new(&program)
            .arg("--listen")
            .arg(format!("unix:{}", socket.display()))
            .args(["--once", "--stdin-guard"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|source| ProcessError::Start { program, source })?;
        let mut inner = self.lock();
        inner.worker = Some(child);
        inner.folder = Some(folder);
        drop(inner);
        self.wait_for(&socket)?;
        Ok(Address::Unix(socket))
    }

    /// Halts the processes where they are; they take no processor time until [`Processes::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets halted processes go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let inner = self.lock();
        for child in [&inner.enclave, &inner.worker].into_iter().flatten() {
            // One that has ended is found out by whoever waits for it.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Ends everything now.
    pub fn kill(&self) {
        let mut inner = self.lock();
        for child in [inner.enclave.take(), inner.worker.take()].into_iter().flatten() {
            end(child, Duration::ZERO);
        }
        inner.folder = None;
    }

    /// Waits for the processes to end, after their links have closed, and ends those that do not.
    pub fn finish(&self) {
        self.resume();
        let (enclave, worker, _folder) = {
            let mut inner = self.lock();
            (inner.enclave.take(), inner.worker.take(), inner.folder.take())
        };
        for child in [enclave, worker].into_iter().flatten() {
            end(child, GRACE);
        }
    }

    /// How the trusted process ended, if it does within a moment.
    pub fn enclave_status(&self) -> Option<ExitStatus> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            let status = self.lock().enclave.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if status.is_some() || Instant::now() > until {
                return status;
            }
            std::thread::sleep(POLL);
        }
    }

    fn wait_for(&self, socket: &Path) -> Result<(), ProcessError> {
        let until = Instant::now() + START;
        while !socket.exists() {
            let ended = self.lock().worker.as_mut().and_then(|child| child.try_wait().ok().flatten());
            match ended {
                Some(status) => return Err(ProcessError::WorkerEnded(status)),
                None if Instant::now() > until => return Err(ProcessError::WorkerSilent),
                None => std::thread::sleep(POLL),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Closes our side of the owner link, which tells the trusted process to end.
pub(crate) fn hang_up(link: &UnixStream) {
    // An error means that it is closed already.
    let _ = link.shutdown(Shutdown::Both);
}

/// A binary that lies beside this one, or in the folder of [`BIN_DIR`].
///
/// # Errors
/// [`ProcessError::NoProgram`].
pub fn sibling(name: &str) -> Result<PathBuf, ProcessError> {
    let folder = match std::env::var_os(BIN_DIR) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_exe()
            .ok()
            .and_then(|own| own.parent().map(Path::to_path_buf))
            .unwrap_or_default(),
    };
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(ProcessError::NoProgram { path }) }
}

fn end(mut child: Child, grace: Duration) {
    // A worker ends when its standard input does.
    drop(child.stdin.take());
    let until = Instant::now() + grace;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(POLL),
            _ => return,
        }
    }
    // It may have ended in between, which is just as good.
    let _ = child.kill();
    let _ = child.wait();
}
