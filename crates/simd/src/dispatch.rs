//! From the name of an instruction set to its token, and which instruction sets this CPU has.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::{Isa, IsaKind, Scalar};

/// A computation that is generic over the instruction set; see [`IsaKind::with`]. A closure can't be generic.
pub trait WithIsa {
    /// The result.
    type Output;
    /// Runs it on `isa`.
    fn call<I: Isa>(self, isa: I) -> Self::Output;
}

/// An instruction set that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No instruction set has this name.
    Unknown(String),
    /// This CPU, or this build's target, lacks it.
    Unavailable(IsaKind),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let have = IsaKind::available().iter().map(|k| k.name()).collect::<Vec<_>>().join(", ");
        match self {
            Self::Unknown(name) => write!(f, "unknown instruction set `{name}`: this machine has {have}"),
            Self::Unavailable(kind) => write!(f, "this CPU can't run {kind} code: it has {have}"),
        }
    }
}

impl std::error::Error for IsaError {}

impl IsaKind {
    /// Whether this CPU and operating system run it.
    pub fn is_available(self) -> bool {
        self.with(Detection).is_ok()
    }

    /// The kinds that this CPU runs, the narrowest first.
    pub fn available() -> &'static [IsaKind] {
        static AVAILABLE: OnceLock<Vec<IsaKind>> = OnceLock::new();
        AVAILABLE.get_or_init(|| Self::ALL.into_iter().filter(|k| k.is_available()).collect())
    }

    /// The widest kind that this CPU runs.
    pub fn best() -> IsaKind {
        Self::available().last().copied().unwrap_or(Self::Scalar)
    }

    /// The kind of that name, if this CPU runs it.
    ///
    /// # Errors
    /// An unknown name, or a kind that this CPU lacks.
    pub fn named(name: &str) -> Result<IsaKind, IsaError> {
        let kind: IsaKind = name.parse()?;
        if kind.is_available() { Ok(kind) } else { Err(IsaError::Unavailable(kind)) }
    }

    /// Runs `work` on the token of this kind.
    ///
    /// # Errors
    /// [`IsaError::Unavailable`] if the CPU lacks it.
    pub fn with<W: WithIsa>(self, work: W) -> Result<W::Output, IsaError> {
        match self {
            Self::Scalar => Ok(work.call(Scalar::new())),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => match crate::Avx2::detect() {
                Some(isa) => Ok(work.call(isa)),
                None => Err(IsaError::Unavailable(self)),
            },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => match crate::Avx512::detect() {
                Some(isa) => Ok(work.call(isa)),
                None => Err(IsaError::Unavailable(self)),
            },
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => Err(IsaError::Unavailable(self)),
        }
    }
}

/// Does nothing: [`IsaKind::with`] runs it only on a CPU that has the instruction set.
struct Detection;

impl WithIsa for Detection {
    type Output = ();
    fn call<I: Isa>(self, _: I) {}
}

impl FromStr for IsaKind {
    type Err = IsaError;

    fn from_str(s: &str) -> Result<Self, IsaError> {
        let known = Self::ALL.into_iter().find(|k| s.eq_ignore_ascii_case(k.name()));
        known.ok_or_else(|| IsaError::Unknown(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Name;

    impl WithIsa for Name {
        type Output = (IsaKind, usize);
        fn call<I: Isa>(self, isa: I) -> Self::Output {
            isa.vectorize(|| (I::KIND, I::LANES))
        }
    }

    #[test]
    fn names_are_parsed_in_any_case() {
        for kind in IsaKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.to_string().to_uppercase().parse(), Ok(kind));
        }
        assert_eq!("neon".parse::<IsaKind>(), Err(IsaError::Unknown("neon".to_owned())));
        assert_eq!(" avx2".parse::<IsaKind>(), Err(IsaError::Unknown(" avx2".to_owned())));
    }

    #[test]
    fn available_kinds_run_and_the_rest_refuse() {
        let available = IsaKind::available();
        assert_eq!(available[0], IsaKind::Scalar);
        assert!(available.is_sorted());
        assert_eq!(IsaKind::best(), *available.last().unwrap());
        for kind in IsaKind::ALL {
            let lanes = if kind == IsaKind::Avx512 { 16 } else { 8 };
            let expected = if available.contains(&kind) { Ok((kind, lanes)) } else { Err(IsaError::Unavailable(kind)) };
            assert_eq!(kind.with(Name), expected);
            assert_eq!(kind.is_available(), available.contains(&kind));
        }
    }

    #[test]
    fn a_request_is_kept_or_refused() {
        assert_eq!(IsaKind::named(""), Err(IsaError::Unknown(String::new())));
        assert_eq!(IsaKind::named("scalar"), Ok(IsaKind::Scalar));
        assert_eq!(IsaKind::named("sse"), Err(IsaError::Unknown("sse".to_owned())));
        for kind in IsaKind::ALL {
            let expected = if kind.is_available() { Ok(kind) } else { Err(IsaError::Unavailable(kind)) };
            assert_eq!(IsaKind::named(kind.name()), expected);
        }
    }

    #[test]
    fn errors_name_what_there_is() {
        let unknown = IsaError::Unknown("neon".to_owned()).to_string();
        assert!(unknown.contains("`neon`") && unknown.contains("scalar"), "{unknown}");
        let unavailable = IsaError::Unavailable(IsaKind::Avx512).to_string();
        assert!(unavailable.contains("avx512") && unavailable.contains("scalar"), "{unavailable}");
    }
}
