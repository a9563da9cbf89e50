//! Folded stacks, the input of flame graphs: `decode;forward;blocks;3;attn;qkv;linear 1234` for each node. The number
//! is nanoseconds per sample; waiting is a separate frame.

use super::{Phase, Report};

/// The stacks of all phases.
pub fn render(report: &Report) -> String {
    report.phases.iter().map(of_phase).collect()
}

fn of_phase(phase: &Phase) -> String {
    let nanoseconds = |seconds: f64| (seconds * phase.samples.tokens * 1e9).round() as u64;
    let mut text = String::new();
    let mut line = |frames: &str, seconds: f64| {
        if nanoseconds(seconds) > 0 {
            text += &format!("{};{frames} {}\n", phase.kind.name(), nanoseconds(seconds));
        }
    };
    for operation in &phase.operations {
        let waits = operation.time.waiting_share();
        let (pass, name) = (operation.id.pass.name(), &operation.id.operation);
        for (path, seconds) in &operation.time.members {
            let frames = format!("{pass};{};{name}", path.replace('.', ";"));
            line(&frames, seconds * (1.0 - waits));
            line(&format!("{frames};waiting"), seconds * waits);
        }
    }
    line("entering the pool", phase.time.entering);
    line("between runs", phase.time.between);
    text
}
