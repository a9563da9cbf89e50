//! The process that computes, with one number of threads all its life.

use std::io::{self, BufRead};
use std::time::{Duration, Instant};

use crate::contenders::Contender;
use crate::matmul::Operands;
use crate::protocol::{self, Answer, Case, Operation, Request};

/// How long a prepared case runs before it is ready: caches, pages and the clock of the core settle meanwhile.
const WARM_UP: Duration = Duration::from_millis(50);

/// A case that is ready to be timed.
struct Prepared {
    contender: Contender,
    operands: Operands,
}

/// Answers the requests that the parent hands on, until the end of the input.
pub fn serve(threads: usize) -> io::Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(io::Error::other)?;
    let mut prepared = None;
    for line in io::stdin().lock().lines() {
        let Request { id, operation } = serde_json::from_str(&line?)?;
        let answer = match operation {
            Operation::Prepare(case) => {
                prepared = None;
                match prepare(&case, &pool) {
                    Ok(ready) => {
                        prepared = Some(ready);
                        Answer::done(id)
                    }
                    Err(why) => Answer::refused(id, why),
                }
            }
            Operation::Sample { iterations } => match &mut prepared {
                Some(ready) => Answer::timed(id, sample(ready, &pool, iterations).as_secs_f64()),
                None => Answer::refused(id, "nothing is prepared".into()),
            },
            Operation::Release => {
                prepared = None;
                Answer::done(id)
            }
            Operation::Quit => break,
        };
        protocol::send(&answer)?;
    }
    Ok(())
}

fn prepare(case: &Case, pool: &rayon::ThreadPool) -> Result<Prepared, String> {
    let contender = Contender::ALL.into_iter().find(|contender| contender.name() == case.contender);
    let contender = contender.ok_or_else(|| format!("no contender {}", case.contender))?;
    if !matches!(case.kernel.as_str(), "matmul" | "gemv") || case.dtype != "f32" {
        return Err(format!("{} has no {}/{}", case.contender, case.kernel, case.dtype));
    }
    contender.takes(case.threads)?;
    let mut operands = Operands::new(case.params)?;
    operands.check(|operands| pool.install(|| contender.product(operands, case.threads)))?;
    let mut ready = Prepared { contender, operands };
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        sample(&mut ready, pool, 1);
    }
    Ok(ready)
}

/// The time of so many products. The loop runs on a thread of the pool, so no product pays for the way into it.
fn sample(ready: &mut Prepared, pool: &rayon::ThreadPool, iterations: u64) -> Duration {
    let threads = pool.current_num_threads();
    pool.install(|| {
        let start = Instant::now();
        for _ in 0..iterations {
            ready.contender.product(&mut ready.operands, threads);
        }
        start.elapsed()
    })
}
