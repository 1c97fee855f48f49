//! The peers written in Rust. A peer is a function that turns a case into a closure that runs it once.

mod asymflow;
#[cfg(feature = "burn")]
mod burn;
#[cfg(feature = "candle")]
mod candle;
#[cfg(feature = "tract")]
mod tract;

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use crate::protocol::{Case, Reply, Request};

/// Runs a case once; returns its figure where that is asked for, which takes time.
type Work = Box<dyn FnMut(bool) -> Result<Option<f64>>>;

/// A peer of this program.
struct Peer {
    name: &'static str,
    version: fn() -> String,
    prepare: fn(&Case, usize) -> Result<Work>,
}

const PEERS: &[Peer] = &[
    asymflow::PEER,
    #[cfg(feature = "candle")]
    candle::PEER,
    #[cfg(feature = "burn")]
    burn::PEER,
    #[cfg(feature = "tract")]
    tract::PEER,
];

/// Whether this program was built with the peer.
pub(crate) fn is_built(name: &str) -> bool {
    PEERS.iter().any(|peer| peer.name == name)
}

/// Answers as peer `name` until standard input ends.
///
/// # Errors
/// If there is no such peer, or the other end speaks otherwise.
pub(crate) fn serve(name: &str, threads: usize) -> Result<()> {
    let peer = PEERS.iter().find(|peer| peer.name == name);
    let peer = peer.ok_or_else(|| anyhow!("this program was built without `{name}`"))?;
    reply(&Reply::Hello { version: (peer.version)() })?;
    let mut work: Option<Work> = None;
    for line in std::io::stdin().lock().lines() {
        let request = serde_json::from_str(&line?).context("a request")?;
        reply(&match request {
            Request::Prepare(case) => {
                // The last case's memory goes first.
                drop(work.take());
                match prepare(peer, &case, threads) {
                    Ok((figure, ready)) => {
                        work = Some(ready);
                        Reply::Ready { figure }
                    }
                    Err(error) => Reply::Unsupported { reason: one_line(&error) },
                }
            }
            Request::Run => took(work.as_mut().context("nothing was prepared")?)?,
        })?;
    }
    Ok(())
}

fn prepare(peer: &Peer, case: &Case, threads: usize) -> Result<(f64, Work)> {
    let mut work = (peer.prepare)(case, threads)?;
    let figure = work(true)?.context("no figure")?;
    Ok((figure, work))
}

fn took(work: &mut Work) -> Result<Reply> {
    let (clock, cpu) = (Instant::now(), cpu_seconds());
    work(false)?;
    Ok(Reply::Took { wall: clock.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu })
}

/// Processor seconds of this process so far, of all its threads.
pub(crate) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn reply(reply: &Reply) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(reply)?)?;
    Ok(out.flush()?)
}

fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or("unknown").chars().take(160).collect()
}
