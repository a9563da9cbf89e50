//! `smallmind doctor`: what this machine has, and what SmallMind will use.

use clap::Args;
use serde_json::json;
use smallmind::graph::{Pool, available_threads};
use smallmind::profile::roofs::{Bandwidth, Effort, Roofs};
use smallmind::simd::IsaKind;

use super::failure::Outcome;
use super::machine::Machine;
use super::settings::{ISA_VARIABLE, Settings, THREADS_VARIABLE, variable};
use super::{output, units};

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Measure in about a second what the machine can do
    #[arg(long)]
    roofs: bool,
}

impl Doctor {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let isa = settings.isa()?;
        let machine = Machine::read();
        let available: Vec<&str> = IsaKind::available().iter().map(|kind| kind.name()).collect();
        let forced = variable(ISA_VARIABLE).is_some();
        let isa_why =
            if forced { format!("{ISA_VARIABLE} asks for it") } else { "the widest that this CPU runs".to_owned() };
        let threads_why = threads_why(settings);
        let roofs = if self.roofs {
            Some(Roofs::measure(&mut Pool::new(settings.threads())?, isa, Effort::QUICK)?)
        } else {
            None
        };
        if settings.is_json() {
            return output::document(json!({
                "version": env!("CARGO_PKG_VERSION"),
                "machine": machine,
                "isa": { "chosen": isa.name(), "why": isa_why, "available": available },
                "cpus_usable": available_threads(),
                "threads": { "chosen": settings.threads(), "why": threads_why },
                "roofs": roofs,
            }));
        }
        let rows = [
            ("smallmind", env!("CARGO_PKG_VERSION").to_owned()),
            ("CPU", format!("{} ({})", machine.cpu.as_deref().unwrap_or("unknown"), machine.architecture)),
            ("features", features(&machine)),
            (
                "instructions",
                format!("{isa}: {isa_why} ({} can be had; {ISA_VARIABLE} forces one)", list(&available, ", ")),
            ),
            ("CPUs", cpus(&machine)),
            ("caches", caches(&machine)),
            ("memory", memory(&machine)),
            ("threads", format!("{}: {threads_why}", settings.threads())),
        ];
        let measured = roofs.as_ref().map(roof_rows).unwrap_or_default();
        let lines: String = rows.iter().chain(&measured).map(|(name, value)| format!("{name:<14} {value}\n")).collect();
        output::print(&lines)?;
        if settings.threads() > available_threads() {
            super::note!(
                "note: more threads than usable CPUs wait for one another; {} are usable",
                available_threads()
            );
        }
        Ok(())
    }
}

/// The vector features that SmallMind has kernels for.
fn features(machine: &Machine) -> String {
    if machine.architecture == "x86_64" {
        list(&machine.features, " ")
    } else {
        format!("none are looked for: there are no vector kernels for {}", machine.architecture)
    }
}

/// Rows with the roofs of all threads together.
fn roof_rows(roofs: &Roofs) -> Vec<(&'static str, String)> {
    let optional =
        |rate: Option<f64>, unit: &str| rate.map_or_else(|| "none".to_owned(), |rate| format!("{rate:.0} {unit}"));
    let level = |level: &Bandwidth| {
        let Bandwidth { bytes, read, write, copy, update, .. } = level;
        let size = units::bytes(*bytes as u64);
        format!("{read:.0} read, {write:.0} write, {copy:.0} copy, {update:.0} update GB/s over {size}")
    };
    let arithmetic = format!(
        "f32 {:.0} GFLOP/s; exponentials {:.1} G/s; dot products: bf16 {}, int8 {}",
        roofs.f32_gflops,
        roofs.exp_gops,
        optional(roofs.bf16_gflops, "GFLOP/s"),
        optional(roofs.int8_gops, "GOP/s")
    );
    let waiting = format!("{:.0} ns to start all threads, {:.0} ns a barrier", roofs.entry_ns, roofs.barrier_ns);
    let levels = roofs.levels.iter().map(|one| (one.name, level(one)));
    std::iter::once(("arithmetic", arithmetic)).chain(levels).chain([("waiting", waiting)]).collect()
}

fn threads_why(settings: &Settings) -> String {
    let variable = std::env::var(THREADS_VARIABLE).ok().and_then(|text| text.parse().ok());
    match settings.threads_asked {
        None => format!("one for each usable CPU (--threads or {THREADS_VARIABLE} changes that)"),
        asked if asked == variable => format!("{THREADS_VARIABLE} asks for it"),
        Some(_) => "--threads asks for it".to_owned(),
    }
}

fn list(words: &[&str], between: &str) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(between) }
}

fn cpus(machine: &Machine) -> String {
    let online = machine.cpus_online.map(|n| format!(" of {n}")).unwrap_or_default();
    let affinity = machine.affinity.as_ref().map(|list| format!("; may run on {list}")).unwrap_or_default();
    let quota = machine.cgroup_cpus.map(|cpus| format!("; control group: {cpus:.1} CPUs of time")).unwrap_or_default();
    format!("{} usable{online}{affinity}{quota}", available_threads())
}

fn caches(machine: &Machine) -> String {
    let one = |cache: &super::machine::Cache| format!("{} {}", cache.name, cache.size);
    if machine.caches.is_empty() {
        return "unknown".to_owned();
    }
    machine.caches.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn memory(machine: &Machine) -> String {
    let Some(total) = machine.memory_total else { return "unknown".to_owned() };
    let available = machine.memory_available.map(|n| format!(", {} available", units::bytes(n))).unwrap_or_default();
    let limit = machine.cgroup_memory.map(|n| format!(", control group: {}", units::bytes(n))).unwrap_or_default();
    format!("{}{available}{limit}", units::bytes(total))
}
