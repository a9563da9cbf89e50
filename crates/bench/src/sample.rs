//! Samples of the time of an iteration. Contenders are sampled alternately.

use std::time::Duration;

use smallmind_graph::Pool;

use crate::error::BenchError;
use crate::rival::Rival;
use crate::work::Work;

/// Pause between samples of different contenders.
const PAUSE: Duration = Duration::from_millis(2);
/// The same pause where there are several threads. A library's threads spin for a while after their work, on the CPU of
/// the next contender: OpenBLAS's for 2²⁶ cycles, some 20 ms, and libgomp's for a few milliseconds.
const PAUSE_OF_MANY: Duration = Duration::from_millis(30);
/// The least length of a sample with several threads and rivals, and of the warm-up before it: a virtual CPU that has
/// slept takes up to a millisecond to wake, and its threads take another one to run in step.
const SAMPLE_OF_MANY: Duration = Duration::from_millis(20);
/// The most iterations of a sample.
const MAX_ITERATIONS: usize = 1_000_000;

/// How samples are taken.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Samples of each contender.
    pub runs: usize,
    /// The least time of a sample.
    pub sample: Duration,
}

/// A contender among those that are sampled alternately.
pub(crate) enum Player<'r> {
    /// This library, by the route of this index.
    Own(usize),
    /// The contender that this process has prepared.
    Rival(&'r mut Rival),
}

/// The engine's side of a case.
pub(crate) struct EngineSide<'a> {
    pub(crate) work: &'a mut dyn Work,
    pub(crate) pool: &'a mut Pool,
}

impl EngineSide<'_> {
    fn sample(&mut self, player: &mut Player<'_>, iterations: usize) -> Result<f64, BenchError> {
        match player {
            Player::Own(route) => Ok(self.work.run(self.pool, *route, iterations)?),
            Player::Rival(rival) => rival.sample(iterations),
        }
    }

    /// The number of iterations that a sample takes. Warms the contender up.
    fn calibrate(&mut self, player: &mut Player<'_>, sampling: Sampling) -> Result<usize, BenchError> {
        let wanted = sampling.sample.as_secs_f64();
        self.sample(player, 1)?;
        let mut iterations = 1;
        let mut seconds = self.sample(player, iterations)?;
        while seconds < 0.8 * wanted && iterations < MAX_ITERATIONS {
            let factor = (wanted / seconds.max(1e-9)).clamp(1.5, 1000.0);
            iterations = ((iterations as f64 * factor).ceil() as usize).min(MAX_ITERATIONS);
            seconds = self.sample(player, iterations)?;
        }
        Ok(iterations)
    }

    /// Seconds of an iteration in each sample, for each player; the error of a player that fails.
    pub(crate) fn samples(
        &mut self,
        players: &mut [Player<'_>],
        sampling: Sampling,
    ) -> Vec<Result<Vec<f64>, BenchError>> {
        let crowd = players.iter().any(|player| matches!(player, Player::Rival(_)));
        let many = crowd && self.pool.threads() > 1;
        let sampling =
            if many { Sampling { sample: sampling.sample.max(SAMPLE_OF_MANY), ..sampling } } else { sampling };
        let pause = || {
            if crowd {
                std::thread::sleep(if many { PAUSE_OF_MANY } else { PAUSE });
            }
        };
        let mut iterations = Vec::with_capacity(players.len());
        let mut samples = Vec::with_capacity(players.len());
        for player in players.iter_mut() {
            pause();
            let count = self.calibrate(player, sampling);
            iterations.push(count.as_ref().copied().unwrap_or(0));
            samples.push(count.map(|_| Vec::with_capacity(sampling.runs)));
        }
        for _ in 0..sampling.runs {
            for (i, player) in players.iter_mut().enumerate() {
                let Ok(seconds) = &mut samples[i] else { continue };
                pause();
                if many {
                    // Threads that have slept begin at different times, and perhaps on the same CPU.
                    let _ = self.sample(player, iterations[i]);
                }
                match self.sample(player, iterations[i]) {
                    Ok(total) => seconds.push(total / iterations[i] as f64),
                    Err(error) => samples[i] = Err(error),
                }
            }
        }
        samples
    }
}
