//! Ctrl-C, SIGTERM and SIGHUP: a checkpoint first where there is something to save, an end otherwise.

use std::io::Write;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::processes::Processes;
use crate::session::Incoming;

/// What an interrupt does at the moment.
#[derive(Default)]
enum State {
    /// Nothing runs that would have to end first.
    #[default]
    Idle,
    /// Ends these and the command.
    Running(Arc<Processes>),
    /// Asks the session to stop; the second interrupt ends it.
    Stoppable(Arc<Processes>, Sender<Incoming>),
}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();

/// Starts to listen for interrupts; later calls do nothing.
///
/// # Errors
/// If the operating system refuses the handler.
pub fn install() -> Result<(), ctrlc::Error> {
    if STATE.set(Mutex::new(State::Idle)).is_err() {
        return Ok(());
    }
    ctrlc::set_handler(interrupted)
}

/// From now on an interrupt ends these processes and the command.
pub(crate) fn ends(processes: &Arc<Processes>) {
    set(State::Running(Arc::clone(processes)));
}

/// From now on the first interrupt is a message to the session.
pub(crate) fn stops(processes: &Arc<Processes>, session: Sender<Incoming>) {
    set(State::Stoppable(Arc::clone(processes), session));
}

/// From now on there is nothing to end.
pub(crate) fn idle() {
    set(State::Idle);
}

fn set(state: State) {
    if let Some(own) = STATE.get() {
        *lock(own) = state;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn interrupted() {
    let Some(state) = STATE.get() else { return };
    let mut state = lock(state);
    match std::mem::take(&mut *state) {
        State::Idle => end(None),
        State::Running(processes) => end(Some(&processes)),
        State::Stoppable(processes, session) => {
            if session.send(Incoming::Interrupt).is_err() {
                end(Some(&processes));
            }
            *state = State::Running(processes);
        }
    }
}

fn end(processes: Option<&Processes>) -> ! {
    if let Some(processes) = processes {
        processes.kill();
    }
    // A closed terminal must not stop the end.
    let _ = writeln!(std::io::stderr(), "\ninterrupted");
    std::process::exit(1);
}
