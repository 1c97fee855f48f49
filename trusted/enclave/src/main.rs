//! `asymflow-enclave`: the trusted process.
//!
//! Speaks to its owner over the socket it inherits as standard input, and to the accelerator it is told to use. It exits
//! when the owner's end closes.

mod journal;
mod link;
mod owner;
mod process;
mod sealed;
mod storage;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let session = socket.and_then(|socket| {
        // Anything but a socket on standard input is somebody starting this by hand.
        socket.peer_addr()?;
        owner::serve(socket)
    });
    match session {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => {
            eprintln!("asymflow-enclave: started by `asymflow`, not by hand; see `asymflow train --help`");
            ExitCode::from(2)
        }
    }
}
