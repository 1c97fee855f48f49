//! Ctrl-C, SIGTERM and SIGHUP: a checkpoint first where there is something to save, an end otherwise.

use std::io::Write;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::processes::Processes;
use crate::session::Incoming;

/// What an interrupt does at the moment.
#[derive(Default)]
struct State {
    /// What ends with the command.
    running: Vec<Arc<Processes>>,
    /// The session that is asked to stop first; the next interrupt ends everything.
    stoppable: Option<Sender<Incoming>>,
}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();

/// Starts to listen for interrupts; later calls do nothing.
///
/// # Errors
/// If the operating system refuses the handler.
pub fn install() -> Result<(), ctrlc::Error> {
    if STATE.set(Mutex::default()).is_err() {
        return Ok(());
    }
    ctrlc::set_handler(interrupted)
}

/// From now on an interrupt ends these processes, too, and the command.
pub(crate) fn ends(processes: &Arc<Processes>) {
    change(|state| state.running.push(Arc::clone(processes)));
}

/// From now on the first interrupt is a message to the session.
pub(crate) fn stops(session: Sender<Incoming>) {
    change(|state| state.stoppable = Some(session));
}

/// These processes have ended; nobody is left to be asked to stop.
pub(crate) fn forget(processes: &Arc<Processes>) {
    change(|state| {
        state.running.retain(|running| !Arc::ptr_eq(running, processes));
        state.stoppable = None;
    });
}

fn change(change: impl FnOnce(&mut State)) {
    if let Some(own) = STATE.get() {
        change(&mut lock(own));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn interrupted() {
    let Some(state) = STATE.get() else { return };
    let mut state = lock(state);
    let told = state.stoppable.take().is_some_and(|session| session.send(Incoming::Interrupt).is_ok());
    if !told {
        state.running.iter().for_each(|processes| processes.kill());
        // A closed terminal must not stop the end.
        let _ = writeln!(std::io::stderr(), "\ninterrupted");
        std::process::exit(1);
    }
}
