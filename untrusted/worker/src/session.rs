//! One session with an enclave: jobs in, replies out.

use std::io::{Read, Write};

use wire::accelerator::{Job, Reply};
use wire::{Limits, VERSION, WireError, read_frame, write_frame};

use crate::Device;

/// Runs jobs until the enclave says [`Job::Finish`] or closes the connection.
///
/// # Errors
/// [`WireError`] if the connection fails or what comes is not the protocol.
pub fn serve(
    mut reader: impl Read,
    mut writer: impl Write,
    device: &mut dyn Device,
    cpu_seconds: impl Fn() -> f64,
) -> Result<(), WireError> {
    let started = cpu_seconds();
    let mut body = Vec::new();
    loop {
        let job: Job = match read_frame(&mut reader, Limits::default(), &mut body) {
            Ok(job) => job,
            Err(WireError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut send = |reply: Reply, body: &[u8]| write_frame(&mut writer, &reply, &[body]);
        let answer = match &job {
            Job::Hello { version } if *version != VERSION => Reply::Failed {
                why: format!("this worker speaks protocol version {VERSION}, the enclave version {version}"),
            },
            Job::Hello { .. } => Reply::Ready { version: VERSION, device: device.name() },
            job => match device.run(job, &body, &mut send) {
                Ok(()) => Reply::Done { cpu_seconds: cpu_seconds() - started },
                Err(crate::DeviceError::Wire(error @ (WireError::Closed | WireError::Io(_)))) => {
                    return Err(error);
                }
                Err(error) => Reply::Failed { why: error.to_string() },
            },
        };
        match send(answer, &[]) {
            Err(WireError::Closed) => return Ok(()),
            Ok(()) if job == Job::Finish => return Ok(()),
            sent => sent?,
        }
    }
}
