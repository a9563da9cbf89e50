//! The machine, as the operating system describes it. Fields stay empty on systems other than Linux.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A machine as seen by a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: Option<String>,
    /// The architecture that this program was compiled for.
    pub architecture: &'static str,
    /// Vector features that matter here.
    pub features: Vec<&'static str>,
    /// Number of CPUs that are online.
    pub cpus_online: Option<usize>,
    /// CPUs that this process may run on, as the system writes them: `0-3,8`.
    pub affinity: Option<String>,
    /// CPU time that the control group allows, in CPUs.
    pub cgroup_cpus: Option<f64>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
    /// Bytes of memory that are available now.
    pub memory_available: Option<u64>,
    /// Bytes of memory that the control group allows.
    pub cgroup_memory: Option<u64>,
    /// Caches of the first CPU.
    pub caches: Vec<Cache>,
}

/// A cache of a CPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cache {
    /// The level: `L1d`, `L2`.
    pub name: String,
    /// The size, as the system writes it: `48K`.
    pub size: String,
    /// The CPUs that share it: `0-3`.
    pub shared_by: String,
}

impl Machine {
    /// Reads the files of the system.
    pub fn read() -> Self {
        let cpuinfo = text("/proc/cpuinfo");
        let meminfo = text("/proc/meminfo");
        Self {
            cpu: field(&cpuinfo, "model name")
                .or_else(|| field(&cpuinfo, "Model"))
                .or_else(|| field(&cpuinfo, "Hardware")),
            architecture: std::env::consts::ARCH,
            features: features(),
            cpus_online: text("/sys/devices/system/cpu/online").trim().parse::<CpuList>().ok().map(|list| list.0),
            affinity: field(&text("/proc/self/status"), "Cpus_allowed_list"),
            cgroup_cpus: tightest("cpu.max", "cpu", "cpu.cfs_quota_us", parse_quota),
            memory_total: kibibytes(&meminfo, "MemTotal"),
            memory_available: kibibytes(&meminfo, "MemAvailable"),
            cgroup_memory: tightest("memory.max", "memory", "memory.limit_in_bytes", |text, _| {
                text.trim().parse().ok()
            })
            .filter(|bytes| *bytes < 1e18)
            .map(|bytes: f64| bytes as u64),
            caches: caches(Path::new("/sys/devices/system/cpu/cpu0/cache")),
        }
    }
}

/// Number of CPUs in a list such as `0-3,8`.
#[derive(Debug, PartialEq, Eq)]
struct CpuList(usize);

impl std::str::FromStr for CpuList {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let count = |range: &str| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
            to.checked_sub(from)?.checked_add(1)
        };
        text.split(',').map(count).sum::<Option<usize>>().map(CpuList).ok_or(())
    }
}

/// A file of the system; empty if there is none.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let value = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().find_map(value).filter(|value| !value.is_empty())
}

/// The value of a line `name: n kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `quota period` as in `cpu.max`, or only the quota, with the period in another file of the folder.
fn parse_quota(text: &str, folder: &Path) -> Option<f64> {
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok().filter(|quota| *quota > 0.0)?;
    let period = words.next().map(str::to_owned).unwrap_or_else(|| self::text(folder.join("cpu.cfs_period_us")));
    let period: f64 = period.trim().parse().ok().filter(|period| *period > 0.0)?;
    Some(quota / period)
}

/// The smallest limit of this process's control group and its parents, from the file of version 2, or else of version
/// 1.
fn tightest(v2: &str, controller: &str, v1: &str, parse: impl Fn(&str, &Path) -> Option<f64>) -> Option<f64> {
    let groups = text("/proc/self/cgroup");
    let mut folders: Vec<(PathBuf, &str)> = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (PathBuf::from("/sys/fs/cgroup"), v2),
            list if list.split(',').any(|name| name == controller) => {
                (Path::new("/sys/fs/cgroup").join(controller), v1)
            }
            _ => continue,
        };
        let own = root.join(path.trim_start_matches('/'));
        folders.extend(own.ancestors().filter(|folder| folder.starts_with(&root)).map(|f| (f.to_owned(), file)));
    }
    let limits = folders.iter().filter_map(|(folder, file)| parse(&text(folder.join(file)), folder));
    limits.min_by(f64::total_cmp)
}

fn caches(folder: &Path) -> Vec<Cache> {
    let read = |index: usize| {
        let of = |name: &str| Some(text(folder.join(format!("index{index}")).join(name)).trim().to_owned());
        let of = |name: &str| of(name).filter(|value| !value.is_empty());
        let kind = match of("type")?.as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        Some(Cache { name: format!("L{}{kind}", of("level")?), size: of("size")?, shared_by: of("shared_cpu_list")? })
    };
    (0..8).map_while(read).collect()
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let all = detected!(
        "sse4.2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
        "avx512bf16"
    );
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    vec![]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        for (text, count) in [("0", 1), ("0-3", 4), ("0-3,8", 5), ("1,3,5-6", 4)] {
            assert_eq!(text.parse(), Ok(CpuList(count)), "{text}");
        }
        for text in ["", "a", "3-1", "0-", "0-18446744073709551615"] {
            assert_eq!(text.parse::<CpuList>(), Err(()), "{text}");
        }
    }

    #[test]
    fn fields_are_found() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nMemTotal:  1024 kB\nempty :\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A CPU @ 2 GHz"));
        assert_eq!(field(text, "empty"), None);
        assert_eq!(kibibytes(text, "MemTotal"), Some(1 << 20));
        assert_eq!(kibibytes(text, "processor"), None);
    }

    #[test]
    fn quotas_are_cpus() {
        let none = Path::new("/nonexistent");
        assert_eq!(parse_quota("150000 100000\n", none), Some(1.5));
        assert_eq!(parse_quota("max 100000\n", none), None);
        assert_eq!(parse_quota("-1\n", none), None);
        assert_eq!(parse_quota("", none), None);
    }
}
