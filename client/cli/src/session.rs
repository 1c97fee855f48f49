//! One conversation with the trusted process.

use std::io::BufWriter;
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use data::Images;
use wire::accelerator::RecordSet;
use wire::owner::{Event, FailureKind, Request};
use wire::spec::Address;
use wire::{Limits, WireError, read_frame, write_frame};

use crate::interrupt;
use crate::processes::{ProcessError, Processes, hang_up};

/// Bytes of pixels in one frame of records.
const CHUNK: usize = 8 << 20;

/// A conversation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{}{message}", prefix(*kind))]
    Failed { kind: FailureKind, message: String },
    #[error("the trusted process ended unexpectedly{}; its own message, if any, is above", ended(*status))]
    Ended { status: Option<ExitStatus> },
    #[error("the link to the trusted process: {0}")]
    Link(WireError),
    #[error(
        "the trusted process answered `{found}` where {expected} was due; are all binaries of one version?"
    )]
    Unexpected { expected: &'static str, found: &'static str },
    #[error("interrupted before training began; nothing was saved")]
    Interrupted,
}

fn prefix(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Request => "",
        FailureKind::Privacy => "refused for privacy: ",
        FailureKind::Accelerator => "accelerator: ",
        FailureKind::Storage => "run directory: ",
    }
}

fn ended(status: Option<ExitStatus>) -> String {
    status.map(|status| format!(" ({status})")).unwrap_or_default()
}

/// What arrives at a session.
pub(crate) enum Incoming {
    Event(Box<Event>, Vec<u8>),
    /// The link is at its end.
    End(WireError),
    /// The user asks to stop.
    Interrupt,
}

/// A running trusted process, with its accelerator if the client started one.
pub struct Session {
    processes: Arc<Processes>,
    link: UnixStream,
    incoming: Receiver<Incoming>,
    sender: Sender<Incoming>,
    interrupted: bool,
}

impl Session {
    /// Starts the trusted process.
    ///
    /// # Errors
    /// [`SessionError::Process`].
    pub fn start() -> Result<Self, SessionError> {
        let processes = Arc::new(Processes::default());
        interrupt::ends(&processes);
        let link = processes.start_enclave()?;
        let (sender, incoming) = channel();
        let reader = link.try_clone().map_err(|e| SessionError::Link(e.into()))?;
        let events = sender.clone();
        std::thread::spawn(move || read_events(reader, &events));
        Ok(Session { processes, link, incoming, sender, interrupted: false })
    }

    /// The address of the accelerator, which is started here for `spawn:cpu`.
    ///
    /// # Errors
    /// [`SessionError::Process`].
    pub fn accelerator(&self, address: &str) -> Result<Address, SessionError> {
        match address.split_once(':') {
            Some(("unix", path)) => Ok(Address::Unix(path.into())),
            Some(("tcp", host)) => Ok(Address::Tcp(host.to_owned())),
            _ => Ok(self.processes.start_worker()?),
        }
    }

    /// Sends a request with its body.
    ///
    /// # Errors
    /// [`SessionError::Ended`] if nobody is there to read it, [`SessionError::Link`].
    pub fn send(&mut self, request: &Request, body: &[&[u8]]) -> Result<(), SessionError> {
        let sent = write_frame(&mut BufWriter::new(&self.link), request, body);
        match sent {
            Ok(()) => Ok(()),
            // What it said before it went explains more than that it went.
            Err(WireError::Closed) => Err(self.last_words()),
            Err(error) => Err(SessionError::Link(error)),
        }
    }

    /// Sends all records of a set.
    ///
    /// # Errors
    /// As [`Session::send`]; [`SessionError::Interrupted`].
    pub fn send_records(&mut self, set: RecordSet, images: &Images) -> Result<(), SessionError> {
        let (size, total) = (images.shape.iter().product::<usize>().max(1), images.len());
        let per_frame = (CHUNK / size).max(1);
        let frames = images.pixels.chunks(per_frame * size).zip(images.labels.chunks(per_frame));
        for (pixels, labels) in frames {
            self.check_interrupt()?;
            let request = Request::Records { set, count: labels.len(), total };
            self.send(&request, &[pixels, &wire::body::from_u16(labels)])?;
        }
        Ok(())
    }

    /// From now on the first Ctrl-C asks the trusted process to stop with a checkpoint.
    pub fn make_stoppable(&self) {
        interrupt::stops(self.sender.clone());
    }

    /// The next event and its body. An interrupt is passed on as [`Request::Stop`].
    ///
    /// # Errors
    /// [`SessionError::Failed`] for [`Event::Failed`], [`SessionError::Ended`] if the trusted process is gone.
    pub fn receive(&mut self) -> Result<(Event, Vec<u8>), SessionError> {
        loop {
            match self.incoming.recv() {
                Ok(Incoming::Event(event, body)) => {
                    return match *event {
                        Event::Failed { kind, message } => Err(SessionError::Failed { kind, message }),
                        event => Ok((event, body)),
                    };
                }
                Ok(Incoming::Interrupt) => {
                    self.interrupted = true;
                    self.send(&Request::Stop, &[])?;
                }
                Ok(Incoming::End(WireError::Closed | WireError::Truncated)) | Err(_) => {
                    return Err(self.gone());
                }
                Ok(Incoming::End(error)) => return Err(SessionError::Link(error)),
            }
        }
    }

    /// Halts the processes until [`Session::resume`].
    pub fn pause(&self) {
        self.processes.pause();
    }

    /// Lets halted processes go on.
    pub fn resume(&self) {
        self.processes.resume();
    }

    /// Whether the user has asked to stop.
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// Ends the conversation and waits for the processes.
    pub fn close(self) {
        hang_up(&self.link);
        self.processes.finish();
    }

    fn check_interrupt(&mut self) -> Result<(), SessionError> {
        match self.incoming.try_recv() {
            Ok(Incoming::Interrupt) => Err(SessionError::Interrupted),
            Ok(Incoming::Event(event, _)) => match *event {
                Event::Failed { kind, message } => Err(SessionError::Failed { kind, message }),
                Event::Note { text } => {
                    crate::terminal::note(&text);
                    Ok(())
                }
                other => Err(unexpected("nothing", &other)),
            },
            Ok(Incoming::End(_)) => Err(self.gone()),
            Err(_) => Ok(()),
        }
    }

    fn last_words(&mut self) -> SessionError {
        loop {
            if let Err(error) = self.receive() {
                return error;
            }
        }
    }

    fn gone(&self) -> SessionError {
        SessionError::Ended { status: self.processes.enclave_status() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        hang_up(&self.link);
        self.processes.finish();
        interrupt::forget(&self.processes);
    }
}

/// The error of an answer that was not due.
pub(crate) fn unexpected(expected: &'static str, found: &Event) -> SessionError {
    SessionError::Unexpected { expected, found: event_name(found) }
}

fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Opened { .. } => "opened",
        Event::Plan(_) => "plan",
        Event::Note { .. } => "note",
        Event::Stage { .. } => "stage",
        Event::Connected { .. } => "connected",
        Event::Released { .. } => "released",
        Event::Spent { .. } => "spent",
        Event::Step(_) => "step",
        Event::Epoch(_) => "epoch",
        Event::Profile(_) => "profile",
        Event::Checkpoint { .. } => "checkpoint",
        Event::Trained(_) => "trained",
        Event::Stopped { .. } => "stopped",
        Event::Evaluated(_) => "evaluated",
        Event::Predictions { .. } => "predictions",
        Event::Part { .. } => "part",
        Event::Finished => "finished",
        Event::Failed { .. } => "failed",
        Event::Pictures(_) => "pictures",
    }
}

fn read_events(mut link: UnixStream, events: &Sender<Incoming>) {
    loop {
        let mut body = Vec::new();
        let incoming = match read_frame::<Event>(&mut link, Limits::default(), &mut body) {
            Ok(event) => Incoming::Event(Box::new(event), body),
            Err(error) => {
                // Nobody listens any more if the command is over.
                let _ = events.send(Incoming::End(error));
                return;
            }
        };
        if events.send(incoming).is_err() {
            return;
        }
    }
}
