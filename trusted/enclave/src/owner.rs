//! The owner's session: requests in, events out.

use std::io::{BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mechanism::LedgerStore;
use runtime::{Host, Journal, Outcome, Run, RunError, StorageError, Transport};
use wire::owner::{Event, Request};
use wire::spec::Address;
use wire::{Limits, VERSION, WireError, read_frame, write_frame};

use crate::journal::{self, BoundaryLog};
use crate::storage::Storage;
use crate::{link, process};

/// Requests read ahead; more wait in the socket.
const AHEAD: usize = 4;

/// Serves one owner until its end of the socket closes.
///
/// # Errors
/// If the socket cannot be used at all.
pub(crate) fn serve(socket: UnixStream) -> std::io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, requests) = sync_channel(AHEAD);
    let reader = socket.try_clone()?;
    let asked = Arc::clone(&stop);
    std::thread::spawn(move || read_requests(BufReader::new(reader), &sender, &asked));
    let mut session = Session {
        process: Process { writer: BufWriter::new(socket.try_clone()?), storage: None, stop },
        run: None,
    };
    session.answer(&requests);
    socket.shutdown(Shutdown::Both)
}

/// Reads requests until the owner is gone; then the process ends, whatever it is doing.
fn read_requests(mut reader: impl Read, requests: &SyncSender<(Request, Vec<u8>)>, stop: &AtomicBool) {
    loop {
        let mut body = Vec::new();
        match read_frame(&mut reader, Limits::default(), &mut body) {
            Ok(Request::Stop) => stop.store(true, Ordering::SeqCst),
            Ok(request) => {
                if requests.send((request, body)).is_err() {
                    return;
                }
            }
            // A killed or finished client: nobody is left to work for, and every checkpoint is already on disk.
            Err(_) => std::process::exit(0),
        }
    }
}

struct Session {
    process: Process,
    run: Option<Run>,
}

/// This process as the runtime sees it.
struct Process {
    writer: BufWriter<UnixStream>,
    storage: Option<Storage>,
    stop: Arc<AtomicBool>,
}

impl Session {
    fn answer(&mut self, requests: &Receiver<(Request, Vec<u8>)>) {
        while let Ok((request, body)) = requests.recv() {
            if let Err(error) = self.handle(request, &body) {
                let event = Event::Failed { kind: error.kind(), message: error.to_string() };
                self.process.report(event, &[]);
            }
        }
    }

    fn handle(&mut self, request: Request, body: &[u8]) -> Result<(), RunError> {
        match request {
            Request::Create { version, directory, key, spec } => {
                check_version(version)?;
                let (initial, _) = wire::body::take_parameters(body, &spec.graph).map_err(bad_body)?;
                self.process.storage = Some(Storage::create(&directory, &key)?);
                self.run = Some(Run::create(&mut self.process, *spec, initial)?);
                self.opened()
            }
            Request::Open { version, directory, key, accelerator } => {
                check_version(version)?;
                self.process.storage = Some(open(&directory, &key)?);
                self.run = Some(Run::open(&mut self.process, accelerator)?);
                self.opened()
            }
            Request::Records { set, count, .. } => self.run()?.0.add_records(set, count, body),
            Request::Plan { version, spec, records } => {
                check_version(version)?;
                let (initial, pixels) = wire::body::take_parameters(body, &spec.graph).map_err(bad_body)?;
                let plan = runtime::plan(&spec, initial, pixels, records)?;
                self.process.report(Event::Plan(plan), &[]);
                Ok(())
            }
            Request::Train { profile } => self.train(profile),
            Request::Evaluate => {
                let (run, process) = self.run()?;
                let summary = run.evaluate(process)?;
                process.report(Event::Evaluated(summary), &[]);
                Ok(())
            }
            Request::Infer { count } => {
                let (run, process) = self.run()?;
                let answer = run.infer(process, count, body)?;
                let classes = run.spec().graph.classes();
                let (degraded, epsilon) = (answer.degraded, answer.epsilon);
                let event = Event::Predictions { count, classes, degraded, epsilon };
                process.report(event, &wire::body::from_f32(&answer.logits));
                Ok(())
            }
            Request::Export => {
                let (run, process) = self.run()?;
                for (name, graph, parameters) in run.model_parts()? {
                    let event = Event::Part { name: name.to_owned(), graph: Box::new(graph) };
                    process.report(event, &wire::body::from_parameters(&parameters));
                }
                process.report(Event::Finished, &[]);
                Ok(())
            }
            Request::Stop => Ok(()),
            Request::Pictures { count } => {
                let (run, process) = self.run()?;
                let (pictures, body) = run.pictures(process, count)?;
                process.report(Event::Pictures(pictures), &body);
                Ok(())
            }
        }
    }

    fn train(&mut self, profile: bool) -> Result<(), RunError> {
        let (run, process) = self.run()?;
        if profile {
            run.profile(process::clock_seconds);
        }
        let event = match run.train(process)? {
            Outcome::Finished => Event::Trained(run.training_summary(process)?),
            Outcome::Stopped { steps_done } => Event::Stopped { steps_done },
        };
        process.report(event, &[]);
        Ok(())
    }

    fn run(&mut self) -> Result<(&mut Run, &mut Process), RunError> {
        let run = self.run.as_mut().ok_or_else(|| RunError::Request("no run is open".to_owned()))?;
        Ok((run, &mut self.process))
    }

    fn opened(&mut self) -> Result<(), RunError> {
        let (run, process) = self.run()?;
        let event = Event::Opened { spec: Box::new(run.spec().clone()), steps_done: run.steps_done() };
        process.report(event, &[]);
        Ok(())
    }
}

fn open(directory: &Path, key: &Path) -> Result<Storage, StorageError> {
    if directory.is_dir() {
        return Storage::open(directory, key);
    }
    Err(StorageError {
        file: directory.display().to_string(),
        why: "there is no run directory here".to_owned(),
    })
}

fn check_version(found: u32) -> Result<(), RunError> {
    if found == VERSION {
        return Ok(());
    }
    Err(RunError::Request(format!(
        "the client speaks protocol version {found}, this enclave version {VERSION}"
    )))
}

fn bad_body(error: WireError) -> RunError {
    RunError::Request(format!("the request's body does not fit: {error}"))
}

impl Process {
    fn storage(&self) -> Result<&Storage, StorageError> {
        self.storage.as_ref().ok_or_else(|| StorageError {
            file: "run directory".to_owned(),
            why: "no run is open".to_owned(),
        })
    }
}

impl Host for Process {
    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.storage()?.save(name, bytes)
    }

    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.storage()?.load(name)
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.storage()?.remove(name)
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        self.storage()?.names()
    }

    fn ledger(&self) -> Result<Vec<u8>, StorageError> {
        self.storage()?.ledger()
    }

    fn newest_receipt(&self) -> Result<Option<ledger::Paid>, StorageError> {
        journal::newest_receipt(&self.storage()?.path("boundary.jsonl"))
    }

    fn ledger_store(&mut self) -> Result<Box<dyn LedgerStore + Send>, StorageError> {
        Ok(Box::new(self.storage()?.ledger_store()?))
    }

    fn truncate_ledger(&mut self, intact: usize) -> Result<(), StorageError> {
        self.storage()?.truncate_ledger(intact)
    }

    fn job_key(&self) -> Result<[u8; 32], StorageError> {
        Ok(self.storage()?.job_key())
    }

    fn journal(&mut self) -> Result<Box<dyn Journal>, StorageError> {
        Ok(Box::new(BoundaryLog::open(&self.storage()?.path("boundary.jsonl"))?))
    }

    fn connect(&mut self, address: &Address, timeout_seconds: f64) -> Result<Box<dyn Transport>, WireError> {
        Ok(Box::new(link::connect(address, timeout_seconds)?))
    }

    fn report(&mut self, event: Event, body: &[u8]) {
        // An owner that is gone ends the process from the reading thread; nothing is lost by an unread event.
        let _ = write_frame(&mut self.writer, &event, &[body]).and_then(|()| Ok(self.writer.flush()?));
    }

    fn stop_asked(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds()
    }

    fn peak_bytes(&self) -> u64 {
        process::peak_bytes()
    }
}
