//! The connection to the accelerator: sockets, and a thread that reads ahead as far as little memory allows.

use std::collections::VecDeque;
use std::io::{BufReader, BufWriter, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::{ReplyBody, Transport};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use shared_memory::{HEADER, Mapping, Ring, Taken};
use wire::accelerator::{Job, Reply};
use wire::spec::Address;
use wire::{Limits, SharedBody, WireError, read_any_frame, write_frame, write_shared_frame};

/// Replies read ahead of the runtime, and bytes of their bodies; a faster accelerator waits when they are full. The runtime
/// counts on so few: a state is as large as a model, and is read when it is asked for.
const AHEAD: usize = 64;
const AHEAD_BYTES: usize = 128 << 10;
/// A worker that was started together with the enclave may need a moment before it listens.
const STARTING: Duration = Duration::from_secs(10);

/// What the reading thread says.
enum Incoming {
    /// A reply, or why there are no more.
    Reply(Result<(Reply, Received), WireError>),
    /// A reply is there whose body is read when the runtime waits for it.
    Waiting,
}

/// The body of a reply, or where it says it is.
enum Received {
    Here(Vec<u8>),
    Shared(SharedBody),
}

/// A socket to the accelerator.
pub(crate) struct SocketTransport {
    writer: BufWriter<Box<dyn Write + Send>>,
    replies: Receiver<Incoming>,
    /// Lets the reading thread go on.
    go_on: SyncSender<()>,
    held: Arc<AtomicUsize>,
    /// Bytes of bodies that are read ahead.
    ahead: Arc<AtomicUsize>,
    timeout: Duration,
    /// The socket again, if it carries descriptors.
    descriptors: Option<UnixStream>,
    shared: Option<Shared>,
}

/// Memory that is shared with the accelerator.
struct Shared {
    mapping: Arc<Mapping>,
    /// What of it holds bodies of jobs, by job, until they are done.
    outward: Ring,
    jobs: VecDeque<Option<Taken>>,
    inward: Arc<Mutex<Ring>>,
}

/// Word of the shared header in which the accelerator finds up to where replies were read.
const READ_WORD: usize = 1;

/// Bodies shorter than this go through the socket.
const SHORT: usize = 4096;

/// The body of a reply in shared memory; its part of the ring is given back with it.
struct SharedReply {
    mapping: Arc<Mapping>,
    ring: Arc<Mutex<Ring>>,
    taken: Taken,
    len: usize,
}

impl ReplyBody for SharedReply {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        assert!(at + out.len() <= self.len, "{} bytes from {at} on of {}", out.len(), self.len);
        self.mapping.read(self.taken.at + at, out);
    }
}

impl Drop for SharedReply {
    fn drop(&mut self) {
        let mut ring = lock(&self.ring);
        ring.give_back(self.taken.end);
        self.mapping.store(READ_WORD, ring.tail());
    }
}

fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
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
            let descriptors = Some(stream.try_clone()?);
            let link = SocketTransport::over(stream.try_clone()?, stream, timeout);
            Ok(SocketTransport { descriptors, ..link })
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
        let ahead = Arc::new(AtomicUsize::new(AHEAD_BYTES));
        let reads = Ahead { replies: sender, wait, held: Arc::clone(&held), limit: Arc::clone(&ahead) };
        std::thread::spawn(move || reads.read(BufReader::new(reader)));
        let writer: BufWriter<Box<dyn Write + Send>> = BufWriter::new(Box::new(writer));
        SocketTransport { writer, replies, go_on, held, ahead, timeout, descriptors: None, shared: None }
    }
}

/// What the reading thread has.
struct Ahead {
    replies: SyncSender<Incoming>,
    wait: Receiver<()>,
    /// Bytes of bodies that the runtime has not taken yet.
    held: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
}

impl Ahead {
    fn read(&self, mut reader: impl Read) {
        loop {
            let mut body = Vec::new();
            let room = |len| self.make_room(len);
            let read = read_any_frame(&mut reader, Limits::default(), &mut body, room);
            let last = read.is_err();
            let received =
                read.map(|(reply, place)| (reply, place.map_or(Received::Here(body), Received::Shared)));
            let incoming = Incoming::Reply(received);
            if self.replies.send(incoming).is_err() || last {
                return;
            }
        }
    }

    /// Waits, if so many bytes more are too many, until the runtime has taken everything before and waits for them.
    fn make_room(&self, len: usize) -> Result<(), WireError> {
        if self.held.fetch_add(len, Ordering::Relaxed) + len > self.limit.load(Ordering::Relaxed) {
            self.replies.send(Incoming::Waiting).map_err(|_| WireError::Closed)?;
            self.wait.recv().map_err(|_| WireError::Closed)?;
        }
        Ok(())
    }
}

impl Transport for SocketTransport {
    fn send(&mut self, job: &Job, parts: &[&[u8]]) -> Result<(), WireError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let Some(shared) = &mut self.shared else { return write_frame(&mut self.writer, job, parts) };
        let taken = if len < SHORT { None } else { shared.outward.take(len) };
        shared.jobs.push_back(taken);
        match taken {
            Some(taken) => {
                shared.write(taken, parts);
                let place = SharedBody { at: taken.at, len, end: taken.end };
                write_shared_frame(&mut self.writer, job, place)
            }
            None => write_frame(&mut self.writer, job, parts),
        }
    }

    fn read_ahead(&mut self, bytes: usize) {
        self.ahead.store(bytes.max(AHEAD_BYTES), Ordering::Relaxed);
    }

    fn share(&mut self, outward: usize, inward: usize) -> Result<bool, WireError> {
        let Some(socket) = self.descriptors.take() else { return Ok(false) };
        // Without such memory there is still the socket.
        let Ok((mapping, descriptor)) = Mapping::create(HEADER + outward + inward) else { return Ok(false) };
        write_frame(&mut self.writer, &Job::Share { outward: outward as u64 }, &[])?;
        match self.wait()?.0 {
            Reply::Done { .. } => {}
            _ => return Ok(false),
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())
            .map_err(|error| WireError::from(std::io::Error::from(error)))?;
        match self.wait()?.0 {
            Reply::Done { .. } => {}
            _ => return Ok(false),
        }
        let inward = Ring::new(HEADER + outward, mapping.len() - HEADER - outward);
        self.shared = Some(Shared {
            mapping: Arc::new(mapping),
            outward: Ring::new(HEADER, outward),
            jobs: VecDeque::new(),
            inward: Arc::new(Mutex::new(inward)),
        });
        Ok(true)
    }

    fn receive(&mut self, body: &mut Vec<u8>) -> Result<Reply, WireError> {
        // What was received last is given up before the next is read.
        *body = Vec::new();
        let (reply, received) = self.wait()?;
        match received {
            Received::Here(bytes) => *body = bytes,
            Received::Shared(place) => {
                let found = self.find(place)?;
                body.resize(found.len(), 0);
                found.read(0, body);
            }
        }
        Ok(reply)
    }

    fn receive_in_place(&mut self) -> Result<(Reply, Box<dyn ReplyBody>), WireError> {
        let (reply, received) = self.wait()?;
        Ok((
            reply,
            match received {
                Received::Here(bytes) => Box::new(bytes),
                Received::Shared(place) => Box::new(self.find(place)?),
            },
        ))
    }
}

impl SocketTransport {
    fn wait(&mut self) -> Result<(Reply, Received), WireError> {
        let begin = Instant::now();
        let (reply, received) = loop {
            match self.replies.recv_timeout(self.timeout.saturating_sub(begin.elapsed())) {
                Ok(Incoming::Reply(reply)) => break reply?,
                Ok(Incoming::Waiting) => self.go_on.send(()).map_err(|_| WireError::Closed)?,
                Err(RecvTimeoutError::Timeout) => return Err(WireError::TimedOut),
                Err(RecvTimeoutError::Disconnected) => return Err(WireError::Closed),
            }
        };
        if let Received::Here(bytes) = &received {
            self.held.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        if let (Some(shared), Reply::Done { .. } | Reply::Failed { .. }) = (&mut self.shared, &reply) {
            shared.job_is_done();
        }
        Ok((reply, received))
    }

    /// The body at a place that the accelerator names.
    fn find(&self, place: SharedBody) -> Result<SharedReply, WireError> {
        let shared = self.shared.as_ref().ok_or(WireError::Shared)?;
        let taken = lock(&shared.inward).follow(place.at, place.len, place.end).ok_or(WireError::Shared)?;
        let (mapping, ring) = (Arc::clone(&shared.mapping), Arc::clone(&shared.inward));
        Ok(SharedReply { mapping, ring, taken, len: place.len })
    }
}

impl Shared {
    fn write(&self, taken: Taken, parts: &[&[u8]]) {
        // Words are whole: parts that end within one go together.
        match parts {
            [one] => self.mapping.write(taken.at, one),
            several => self.mapping.write(taken.at, &several.concat()),
        }
    }

    /// The oldest job has its last reply: its body is read.
    fn job_is_done(&mut self) {
        if let Some(Some(taken)) = self.jobs.pop_front() {
            self.outward.give_back(taken.end);
        }
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
