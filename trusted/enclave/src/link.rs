//! The connection to the accelerator: sockets, and a thread that reads ahead as far as little memory allows.

use std::io::{BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use runtime::Transport;
use wire::accelerator::{Job, Reply};
use wire::spec::Address;
use wire::{Limits, WireError, read_frame_when, write_frame};

/// Replies read ahead of the runtime, and bytes of their bodies; a faster accelerator waits when they are full. The runtime
/// counts on so few: a state is as large as a model, and is read when it is asked for.
const AHEAD: usize = 64;
const AHEAD_BYTES: usize = 128 << 10;
/// A worker that was started together with the enclave may need a moment before it listens.
const STARTING: Duration = Duration::from_secs(10);

/// What the reading thread says.
enum Incoming {
    /// A reply, or why there are no more.
    Reply(Result<(Reply, Vec<u8>), WireError>),
    /// A reply is there whose body is read when the runtime waits for it.
    Waiting,
}

/// A socket to the accelerator.
pub(crate) struct SocketTransport {
    writer: BufWriter<Box<dyn Write + Send>>,
    replies: Receiver<Incoming>,
    /// Lets the reading thread go on.
    go_on: SyncSender<()>,
    held: Arc<AtomicUsize>,
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
        let (go_on, wait) = sync_channel(1);
        let held = Arc::new(AtomicUsize::new(0));
        let ahead = Ahead { replies: sender, wait, held: Arc::clone(&held) };
        std::thread::spawn(move || ahead.read(BufReader::new(reader)));
        SocketTransport { writer: BufWriter::new(Box::new(writer)), replies, go_on, held, timeout }
    }
}

/// What the reading thread has.
struct Ahead {
    replies: SyncSender<Incoming>,
    wait: Receiver<()>,
    /// Bytes of bodies that the runtime has not taken yet.
    held: Arc<AtomicUsize>,
}

impl Ahead {
    fn read(&self, mut reader: impl Read) {
        loop {
            let mut body = Vec::new();
            let room = |len| self.make_room(len);
            let read = read_frame_when(&mut reader, Limits::default(), &mut body, room);
            let last = read.is_err();
            let incoming = Incoming::Reply(read.map(|reply| (reply, body)));
            if self.replies.send(incoming).is_err() || last {
                return;
            }
        }
    }

    /// Waits, if so many bytes more are too many, until the runtime has taken everything before and waits for them.
    fn make_room(&self, len: usize) -> Result<(), WireError> {
        if self.held.fetch_add(len, Ordering::Relaxed) + len > AHEAD_BYTES {
            self.replies.send(Incoming::Waiting).map_err(|_| WireError::Closed)?;
            self.wait.recv().map_err(|_| WireError::Closed)?;
        }
        Ok(())
    }
}

impl Transport for SocketTransport {
    fn send(&mut self, job: &Job, parts: &[&[u8]]) -> Result<(), WireError> {
        write_frame(&mut self.writer, job, parts)
    }

    fn receive(&mut self, body: &mut Vec<u8>) -> Result<Reply, WireError> {
        // What was received last is given up before the next is read.
        *body = Vec::new();
        let begin = Instant::now();
        let (reply, received) = loop {
            match self.replies.recv_timeout(self.timeout.saturating_sub(begin.elapsed())) {
                Ok(Incoming::Reply(reply)) => break reply?,
                Ok(Incoming::Waiting) => self.go_on.send(()).map_err(|_| WireError::Closed)?,
                Err(RecvTimeoutError::Timeout) => return Err(WireError::TimedOut),
                Err(RecvTimeoutError::Disconnected) => return Err(WireError::Closed),
            }
        };
        self.held.fetch_sub(received.len(), Ordering::Relaxed);
        *body = received;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use wire::write_frame;

    use super::*;

    /// The time limit is for a whole reply: a header in time does not buy another.
    #[test]
    fn a_body_that_does_not_come_is_late_with_its_header() {
        const TIMEOUT: Duration = Duration::from_millis(600);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut link = SocketTransport::over(ours.try_clone().unwrap(), ours, TIMEOUT);
        let accelerator = std::thread::spawn(move || {
            let mut frame = Vec::new();
            write_frame(&mut frame, &Reply::Logits { step: 0, count: 1 }, &[&vec![7; 1 << 20]]).unwrap();
            std::thread::sleep(TIMEOUT / 2);
            (&theirs).write_all(&frame[..frame.len() - (1 << 20)]).unwrap();
            theirs
        });
        let begin = Instant::now();
        assert!(matches!(link.receive(&mut Vec::new()), Err(WireError::TimedOut)));
        assert!(begin.elapsed() < TIMEOUT * 5 / 4, "{:?}", begin.elapsed());
        drop(accelerator.join().unwrap());
    }

    /// What the runtime did not wait for takes no memory here: it stays with the accelerator.
    #[test]
    fn a_large_body_is_not_read_ahead() {
        const LARGE: usize = 16 << 20;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut link = SocketTransport::over(ours.try_clone().unwrap(), ours, Duration::from_secs(60));
        let accelerator = std::thread::spawn(move || {
            let mut to = BufWriter::new(theirs);
            for (step, len) in [(0, 8), (1, LARGE), (2, 8)] {
                write_frame(&mut to, &Reply::Logits { step, count: 1 }, &[&vec![7; len]]).unwrap();
            }
        });
        let mut body = Vec::new();
        assert_eq!(link.receive(&mut body).unwrap(), Reply::Logits { step: 0, count: 1 });
        std::thread::sleep(Duration::from_millis(200));
        assert!(!accelerator.is_finished(), "{LARGE} bytes were read ahead");
        assert_eq!(link.receive(&mut body).unwrap(), Reply::Logits { step: 1, count: 1 });
        assert_eq!(body.len(), LARGE);
        assert_eq!(link.receive(&mut body).unwrap(), Reply::Logits { step: 2, count: 1 });
        assert_eq!(body, [7; 8]);
        accelerator.join().unwrap();
        assert_eq!(link.held.load(Ordering::Relaxed), 0);
        assert!(matches!(link.receive(&mut body), Err(WireError::Closed)));
    }
}
