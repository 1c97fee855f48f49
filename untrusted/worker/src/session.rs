//! One session with an enclave: jobs in, replies out.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use shared_memory::{HEADER, Mapping, Ring};
use wire::accelerator::{Job, Reply};
use wire::{Limits, SharedBody, VERSION, WireError, read_any_frame, write_frame, write_shared_frame};

use crate::{Device, DeviceError};

/// Word of the shared header in which the enclave says up to where it has read replies.
pub const READ_WORD: usize = 1;

/// Bodies shorter than this go through the socket.
const SHORT: usize = 4096;

/// Waits for the descriptor of shared memory; `None` where a connection cannot carry one.
pub type Descriptors<'a> = Option<&'a mut dyn FnMut() -> std::io::Result<OwnedFd>>;

/// Runs jobs until the enclave says [`Job::Finish`] or closes the connection.
///
/// # Errors
/// [`WireError`] if the connection fails or what comes is not the protocol.
pub fn serve(
    mut reader: impl Read,
    writer: impl Write,
    device: &mut dyn Device,
    cpu_seconds: impl Fn() -> f64,
    mut descriptors: Descriptors<'_>,
) -> Result<(), WireError> {
    let (started, mut busy) = (cpu_seconds(), Duration::ZERO);
    let mut replies = Replies { writer, shared: None };
    let mut body = Vec::new();
    loop {
        let read = read_any_frame(&mut reader, Limits::default(), &mut body, |_| Ok(()));
        let (job, place): (Job, _) = match read {
            Ok(read) => read,
            Err(WireError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Some(place) = place {
            replies.shared.as_ref().ok_or(WireError::Shared)?.read(place, &mut body)?;
        }
        let begin = Instant::now();
        let mut answer = match &job {
            Job::Hello { version } if *version != VERSION => Reply::Failed {
                why: format!("this worker speaks protocol version {VERSION}, the enclave version {version}"),
            },
            Job::Hello { .. } => Reply::Ready { version: VERSION, device: device.name() },
            Job::Share { outward } => match &mut descriptors {
                Some(receive) => {
                    replies.send(&DONE, &[])?;
                    let descriptor = receive().map_err(WireError::from)?;
                    replies.shared = Some(Shared::new(&descriptor, *outward)?);
                    DONE
                }
                None => Reply::Failed { why: "this connection cannot share memory".to_owned() },
            },
            job => match device.run(job, &body, &mut |reply, body| replies.send(&reply, body)) {
                Ok(()) => DONE,
                Err(DeviceError::Wire(error @ (WireError::Closed | WireError::Io(_)))) => return Err(error),
                Err(error) => Reply::Failed { why: error.to_string() },
            },
        };
        busy += begin.elapsed();
        if let Reply::Done { cpu_seconds: cpu, busy_seconds } = &mut answer {
            (*cpu, *busy_seconds) = (cpu_seconds() - started, busy.as_secs_f64());
        }
        match replies.send(&answer, &[]) {
            Err(WireError::Closed) => return Ok(()),
            Ok(()) if job == Job::Finish => return Ok(()),
            sent => sent?,
        }
    }
}

const DONE: Reply = Reply::Done { cpu_seconds: 0.0, busy_seconds: 0.0 };

/// The way back to the enclave.
struct Replies<W> {
    writer: W,
    shared: Option<Shared>,
}

/// Memory that is shared with the enclave.
struct Shared {
    mapping: Mapping,
    outward: usize,
    ring: Ring,
}

impl<W: Write> Replies<W> {
    /// Sends a reply; its body through shared memory where that has room.
    fn send(&mut self, reply: &Reply, body: &[u8]) -> Result<(), WireError> {
        let place =
            self.shared.as_mut().filter(|_| body.len() >= SHORT).and_then(|shared| shared.write(body));
        match place {
            Some(place) => write_shared_frame(&mut self.writer, reply, place),
            None => write_frame(&mut self.writer, reply, &[body]),
        }
    }
}

impl Shared {
    fn new(descriptor: &OwnedFd, outward: u64) -> Result<Self, WireError> {
        let mapping = Mapping::open(descriptor).map_err(WireError::from)?;
        let end = usize::try_from(outward).ok().and_then(|outward| HEADER.checked_add(outward));
        let end = end.filter(|end| *end <= mapping.len()).ok_or(WireError::Shared)?;
        let ring = Ring::new(end, mapping.len() - end);
        Ok(Shared { mapping, outward: end - HEADER, ring })
    }

    fn read(&self, place: SharedBody, body: &mut Vec<u8>) -> Result<(), WireError> {
        let end = place.at.checked_add(place.len).ok_or(WireError::Shared)?;
        if place.at < HEADER || end > HEADER + self.outward || !place.at.is_multiple_of(shared_memory::ALIGN)
        {
            return Err(WireError::Shared);
        }
        body.resize(place.len, 0);
        self.mapping.read(place.at, body);
        Ok(())
    }

    fn write(&mut self, body: &[u8]) -> Option<SharedBody> {
        self.ring.free_to(self.mapping.load(READ_WORD));
        let taken = self.ring.take(body.len())?;
        self.mapping.write(taken.at, body);
        Some(SharedBody { at: taken.at, len: body.len(), end: taken.end })
    }
}
