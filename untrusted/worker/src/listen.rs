//! Sockets the worker listens on, and a recording of everything that comes in.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// `unix:PATH` or `tcp:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(ListenAddress::Unix(path.into())),
            Some(("tcp", host)) if host.contains(':') => Ok(ListenAddress::Tcp(host.to_owned())),
            _ => Err(format!("`{text}` is not an address; write unix:PATH or tcp:HOST:PORT")),
        }
    }
}

/// A listening socket; a Unix socket's file is removed when it is dropped.
pub enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    /// Starts to listen.
    ///
    /// # Errors
    /// If the address is taken or not allowed.
    pub fn bind(address: &ListenAddress) -> Result<Self> {
        match address {
            ListenAddress::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)
                    .with_context(|| format!("cannot listen on unix:{}", path.display()))?;
                Ok(Listener::Unix(listener, path.clone()))
            }
            ListenAddress::Tcp(host) => {
                let listener =
                    TcpListener::bind(host).with_context(|| format!("cannot listen on tcp:{host}"))?;
                Ok(Listener::Tcp(listener))
            }
        }
    }

    /// Waits for the next enclave.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn accept(&self) -> Result<Connection> {
        match self {
            Listener::Unix(listener, _) => {
                let stream: UnixStream = listener.accept()?.0;
                let (writer, descriptors) = (BufWriter::new(stream.try_clone()?), Some(stream.try_clone()?));
                let (reader, writer) = (Box::new(BufReader::new(stream)), Box::new(writer));
                Ok(Connection { reader, writer, descriptors })
            }
            Listener::Tcp(listener) => {
                let stream: TcpStream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                let writer = Box::new(BufWriter::new(stream.try_clone()?));
                Ok(Connection { reader: Box::new(BufReader::new(stream)), writer, descriptors: None })
            }
        }
    }
}

/// A connection of an enclave.
pub struct Connection {
    pub reader: Box<dyn Read + Send>,
    pub writer: Box<dyn Write + Send>,
    /// A socket that carries descriptors.
    pub descriptors: Option<UnixStream>,
}

/// Waits for a descriptor, which comes with one byte.
///
/// # Errors
/// If something else comes.
pub fn receive_descriptor(socket: &UnixStream) -> std::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    let buffers = &mut [std::io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| std::io::Error::other("no descriptor came with the byte"))
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket nobody listens on any more; refuses one that is in use, and anything that is not a socket.
fn remove_stale(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        bail!("{} exists and is not a socket; choose another path", path.display());
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another worker already listens on unix:{}", path.display());
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {}", path.display()))
}

/// A reader that also writes everything it reads to a file.
pub struct Recording<R> {
    inner: R,
    file: File,
}

impl<R: Read> Recording<R> {
    /// Appends what `inner` reads to the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn new(inner: R, path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write the recording {}", path.display()))?;
        Ok(Recording { inner, file })
    }
}

impl<R: Read> Read for Recording<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.file.write_all(&buffer[..count])?;
        Ok(count)
    }
}
