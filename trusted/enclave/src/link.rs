//! The connection to the accelerator: sockets, and a thread that reads ahead.

use std::io::{BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use runtime::Transport;
use wire::accelerator::{Job, Reply};
use wire::spec::Address;
use wire::{Limits, WireError, read_frame, write_frame};

/// Replies read ahead of the runtime; a faster accelerator waits when they are full.
const AHEAD: usize = 64;
/// A worker that was started together with the enclave may need a moment before it listens.
const STARTING: Duration = Duration::from_secs(10);

type Incoming = Result<(Reply, Vec<u8>), WireError>;

/// A socket to the accelerator.
pub(crate) struct SocketTransport {
    writer: BufWriter<Box<dyn Write + Send>>,
    replies: Receiver<Incoming>,
    timeout: Duration,
}

/// Connects; waits a moment for an accelerator that is just starting.
pub(crate) fn connect(address: &Address, timeout_seconds: f64) -> Result<SocketTransport, WireError> {
    let timeout = Duration::try_from_secs_f64(timeout_seconds).unwrap_or(Duration::MAX);
    let started = Instant::now();
    loop {
        match connect_once(address, timeout) {
            Err(_) if started.elapsed() < STARTING.min(timeout) => {
                std::thread::sleep(Duration::from_millis(20))
            }
            result => return result,
        }
    }
}

fn connect_once(address: &Address, timeout: Duration) -> Result<SocketTransport, WireError> {
    match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(timeout))?;
            Ok(SocketTransport::over(stream.try_clone()?, stream, timeout))
        }
        Address::Tcp(host) => {
            let stream = TcpStream::connect(host)?;
            stream.set_write_timeout(Some(timeout))?;
            stream.set_nodelay(true)?;
            Ok(SocketTransport::over(stream.try_clone()?, stream, timeout))
        }
    }
}

impl SocketTransport {
    fn over(
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
        timeout: Duration,
    ) -> Self {
        let (sender, replies) = sync_channel(AHEAD);
        std::thread::spawn(move || read_ahead(BufReader::new(reader), &sender));
        SocketTransport { writer: BufWriter::new(Box::new(writer)), replies, timeout }
    }
}

fn read_ahead(mut reader: impl Read, replies: &SyncSender<Incoming>) {
    loop {
        let mut body = Vec::new();
        let incoming = read_frame(&mut reader, Limits::default(), &mut body).map(|reply| (reply, body));
        let last = incoming.is_err();
        if replies.send(incoming).is_err() || last {
            return;
        }
    }
}

impl Transport for SocketTransport {
    fn send(&mut self, job: &Job, parts: &[&[u8]]) -> Result<(), WireError> {
        write_frame(&mut self.writer, job, parts)
    }

    fn receive(&mut self, body: &mut Vec<u8>) -> Result<Reply, WireError> {
        let (reply, received) = match self.replies.recv_timeout(self.timeout) {
            Ok(incoming) => incoming?,
            Err(RecvTimeoutError::Timeout) => return Err(WireError::TimedOut),
            Err(RecvTimeoutError::Disconnected) => return Err(WireError::Closed),
        };
        *body = received;
        Ok(reply)
    }
}
