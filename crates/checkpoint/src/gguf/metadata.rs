//! The metadata of a GGUF file: entries in the order of the file, and reading them as the types that a caller wants.

use std::path::{Path, PathBuf};

use super::value::{GgufArray, GgufStrings, GgufValue};
use super::{GgufFault, GgufPlace};
use crate::{CheckpointError, did_you_mean};

type Result<T> = std::result::Result<T, CheckpointError>;

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    /// Where the entry begins in the file, in bytes.
    pub offset: u64,
    pub value: GgufValue,
}

/// The metadata of a GGUF file.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use smallmind_checkpoint::{GgufStrings, GgufValue, GgufWriter, parse_gguf_header};
/// let mut writer = GgufWriter::new();
/// writer.set("llama.block_count", GgufValue::U32(22))?;
/// writer.set("llama.rope.freq_base", GgufValue::F32(10000.0))?;
/// # let mut file = Vec::new();
/// # writer.write_to(&mut file)?;
/// let metadata = parse_gguf_header("model.gguf".as_ref(), &file)?.metadata;
/// assert_eq!(metadata.required::<usize>("llama.block_count")?, 22);
/// assert_eq!(metadata.value::<u64>("llama.context_length")?, None);
/// let error = metadata.required::<&str>("llama.block_count").unwrap_err();
/// assert!(error.to_string().ends_with("the value is of type u32, a string is wanted"));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct GgufMetadata {
    path: PathBuf,
    entries: Vec<Entry>,
    /// Indices of the entries, in the order of their keys.
    by_key: Vec<u32>,
}

impl GgufMetadata {
    /// From entries in the order of the file; a key twice is an error.
    pub(super) fn new(path: &Path, entries: Vec<Entry>) -> Result<Self> {
        let mut by_key: Vec<u32> = (0..entries.len() as u32).collect();
        by_key.sort_unstable_by_key(|&index| (entries[index as usize].key.as_str(), index));
        let metadata = Self { path: path.to_path_buf(), entries, by_key };
        for pair in metadata.by_key.windows(2) {
            let (first, second) = (&metadata.entries[pair[0] as usize], &metadata.entries[pair[1] as usize]);
            if first.key == second.key {
                let fault = GgufFault::DuplicateKey { first: first.offset };
                return Err(CheckpointError::gguf(path, second.offset, GgufPlace::Key(second.key.clone()), fault));
            }
        }
        Ok(metadata)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &GgufValue)> {
        self.entries.iter().map(|entry| (entry.key.as_str(), &entry.value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.find(key).map(|entry| &entry.value)
    }

    /// The value of a key as `T`, or `None` where the key is missing.
    ///
    /// Integers are converted between all widths and signs; so are `f32` and `f64`. An array of numbers is had as
    /// `Vec`, one of texts as `&GgufStrings`.
    ///
    /// # Errors
    /// A value of another kind, or a number that `T` can't hold.
    pub fn value<'a, T: FromGguf<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        T::from_gguf(&entry.value).map(Some).map_err(|fault| self.fault(key, fault))
    }

    /// As [`value`](Self::value), of a key that has to be there.
    ///
    /// # Errors
    /// As [`value`](Self::value); a missing key, with the nearest that is there.
    pub fn required<'a, T: FromGguf<'a>>(&'a self, key: &str) -> Result<T> {
        self.value(key)?.ok_or_else(|| {
            let suggestion = did_you_mean(key, self.iter().map(|(key, _)| key)).map(str::to_owned);
            self.fault(key, GgufFault::MissingKey { suggestion })
        })
    }

    /// An error about the value of a key, for what a caller finds wrong with it.
    pub fn fault(&self, key: &str, fault: GgufFault) -> CheckpointError {
        // The value stands behind the key with its length.
        let offset = self.find(key).map_or(0, |entry| entry.offset + 8 + entry.key.len() as u64);
        CheckpointError::gguf(&self.path, offset, GgufPlace::Key(key.to_owned()), fault)
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        let at = self.by_key.binary_search_by(|&index| self.entries[index as usize].key.as_str().cmp(key)).ok()?;
        Some(&self.entries[self.by_key[at] as usize])
    }
}

/// Types that a value of metadata can be had as.
pub trait FromGguf<'a>: Sized {
    /// Converts the value; what is lost is an error, but for the rounding of an `f64` to `f32`.
    ///
    /// # Errors
    /// [`GgufFault::WrongType`] and [`GgufFault::OutOfRange`].
    fn from_gguf(value: &'a GgufValue) -> std::result::Result<Self, GgufFault>;
}

fn wrong_type<T>(value: &GgufValue, wanted: &'static str) -> std::result::Result<T, GgufFault> {
    Err(GgufFault::WrongType { found: value.describe(), wanted })
}

/// The value of an integer of any width.
fn integer(value: &GgufValue) -> Option<i128> {
    Some(match *value {
        GgufValue::U8(number) => number.into(),
        GgufValue::I8(number) => number.into(),
        GgufValue::U16(number) => number.into(),
        GgufValue::I16(number) => number.into(),
        GgufValue::U32(number) => number.into(),
        GgufValue::I32(number) => number.into(),
        GgufValue::U64(number) => number.into(),
        GgufValue::I64(number) => number.into(),
        _ => return None,
    })
}

/// Converts each element, the integers of any width.
fn integers<T, N: Copy + Into<i128>>(numbers: &[N], wanted: &'static str) -> std::result::Result<Vec<T>, GgufFault>
where
    T: TryFrom<i128>,
{
    let convert = |(index, &number): (usize, &N)| {
        let number = number.into();
        T::try_from(number).map_err(|_| GgufFault::OutOfRange {
            value: number.to_string(),
            wanted,
            index: Some(index as u32),
        })
    };
    numbers.iter().enumerate().map(convert).collect()
}

macro_rules! integer_types {
    ($($number:ty),*) => {$(
        impl FromGguf<'_> for $number {
            fn from_gguf(value: &GgufValue) -> std::result::Result<Self, GgufFault> {
                let wanted = stringify!($number);
                let Some(number) = integer(value) else { return wrong_type(value, concat!("an integer (", stringify!($number), ")")) };
                number.try_into().map_err(|_| GgufFault::OutOfRange { value: number.to_string(), wanted, index: None })
            }
        }

        impl FromGguf<'_> for Vec<$number> {
            fn from_gguf(value: &GgufValue) -> std::result::Result<Self, GgufFault> {
                let wanted = stringify!($number);
                match value {
                    GgufValue::Array(GgufArray::U8(numbers)) => integers(numbers, wanted),
                    GgufValue::Array(GgufArray::I8(numbers)) => integers(numbers, wanted),
                    GgufValue::Array(GgufArray::U16(numbers)) => integers(numbers, wanted),
                    GgufValue::Array(GgufArray::I16(numbers)) => integers(numbers, wanted),
                    GgufValue::Array(GgufArray::U32(numbers)) => integers(numbers, wanted),
                    GgufValue::Array(GgufArray::I32(numbers)) => integers(numbers, wanted),
                    GgufValue::Array(GgufArray::U64(numbers)) => integers(numbers, wanted),
                    GgufValue::Array(GgufArray::I64(numbers)) => integers(numbers, wanted),
                    _ => wrong_type(value, concat!("an array of integers (", stringify!($number), ")")),
                }
            }
        }
    )*};
}
integer_types!(u8, i8, u16, i16, u32, i32, u64, i64, usize);

/// An `f64` as `f32`; a finite number stays finite.
fn narrowed(number: f64, index: Option<u32>) -> std::result::Result<f32, GgufFault> {
    let narrow = number as f32;
    if number.is_finite() && narrow.is_infinite() {
        return Err(GgufFault::OutOfRange { value: number.to_string(), wanted: "f32", index });
    }
    Ok(narrow)
}

impl FromGguf<'_> for f32 {
    fn from_gguf(value: &GgufValue) -> std::result::Result<Self, GgufFault> {
        match *value {
            GgufValue::F32(number) => Ok(number),
            GgufValue::F64(number) => narrowed(number, None),
            _ => wrong_type(value, "a number with a fraction (f32)"),
        }
    }
}

impl FromGguf<'_> for f64 {
    fn from_gguf(value: &GgufValue) -> std::result::Result<Self, GgufFault> {
        match *value {
            GgufValue::F32(number) => Ok(number.into()),
            GgufValue::F64(number) => Ok(number),
            _ => wrong_type(value, "a number with a fraction (f64)"),
        }
    }
}

impl FromGguf<'_> for Vec<f32> {
    fn from_gguf(value: &GgufValue) -> std::result::Result<Self, GgufFault> {
        match value {
            GgufValue::Array(GgufArray::F32(numbers)) => Ok(numbers.clone()),
            GgufValue::Array(GgufArray::F64(numbers)) => {
                numbers.iter().enumerate().map(|(index, &number)| narrowed(number, Some(index as u32))).collect()
            }
            _ => wrong_type(value, "an array of numbers with a fraction (f32)"),
        }
    }
}

impl FromGguf<'_> for bool {
    fn from_gguf(value: &GgufValue) -> std::result::Result<Self, GgufFault> {
        match *value {
            GgufValue::Bool(truth) => Ok(truth),
            _ => wrong_type(value, "a bool"),
        }
    }
}

impl FromGguf<'_> for Vec<bool> {
    fn from_gguf(value: &GgufValue) -> std::result::Result<Self, GgufFault> {
        match value {
            GgufValue::Array(GgufArray::Bool(truths)) => Ok(truths.clone()),
            _ => wrong_type(value, "an array of bools"),
        }
    }
}

impl<'a> FromGguf<'a> for &'a str {
    fn from_gguf(value: &'a GgufValue) -> std::result::Result<Self, GgufFault> {
        match value {
            GgufValue::String(text) => Ok(text),
            _ => wrong_type(value, "a string"),
        }
    }
}

impl<'a> FromGguf<'a> for &'a GgufStrings {
    fn from_gguf(value: &'a GgufValue) -> std::result::Result<Self, GgufFault> {
        match value {
            GgufValue::Array(GgufArray::Strings(strings)) => Ok(strings),
            _ => wrong_type(value, "an array of strings"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> GgufMetadata {
        let entries = [
            ("small", GgufValue::U8(200)),
            ("negative", GgufValue::I64(-1)),
            ("large", GgufValue::U64(u64::MAX)),
            ("wide", GgufValue::F64(1e300)),
            ("narrow", GgufValue::F64(0.5)),
            ("heads", GgufValue::Array(GgufArray::I32(vec![4, -4]))),
            ("text", GgufValue::String("llama".into())),
        ];
        let entry =
            |(at, (key, value)): (usize, (&str, GgufValue))| Entry { key: key.into(), offset: 100 * at as u64, value };
        GgufMetadata::new(Path::new("m.gguf"), entries.into_iter().enumerate().map(entry).collect()).unwrap()
    }

    #[test]
    fn integers_change_width_where_they_fit() {
        let metadata = metadata();
        assert_eq!(metadata.required::<i16>("small").unwrap(), 200);
        assert_eq!(metadata.required::<usize>("small").unwrap(), 200);
        assert_eq!(metadata.required::<i8>("negative").unwrap(), -1);
        assert_eq!(metadata.required::<u64>("large").unwrap(), u64::MAX);
        assert_eq!(metadata.required::<Vec<i64>>("heads").unwrap(), [4, -4]);
        assert_eq!(metadata.required::<f32>("narrow").unwrap(), 0.5);
        let said = |error: CheckpointError| error.to_string();
        let error = said(metadata.required::<i8>("small").unwrap_err());
        assert_eq!(error, "m.gguf: GGUF, byte 13, metadata key \"small\": the value 200 does not fit i8");
        let error = said(metadata.required::<u32>("negative").unwrap_err());
        assert!(error.contains("byte 116") && error.contains("-1 does not fit u32"), "{error}");
        let error = said(metadata.required::<i64>("large").unwrap_err());
        assert!(error.contains("18446744073709551615 does not fit i64"), "{error}");
        let error = said(metadata.required::<Vec<u32>>("heads").unwrap_err());
        assert!(error.contains("-4 does not fit u32 (element 1 of the array)"), "{error}");
        let error = said(metadata.required::<f32>("wide").unwrap_err());
        assert!(error.contains("does not fit f32"), "{error}");
    }

    #[test]
    fn kinds_are_not_mixed_and_missing_keys_have_neighbours() {
        let metadata = metadata();
        let said = |error: CheckpointError| error.to_string();
        let error = said(metadata.required::<u32>("text").unwrap_err());
        assert!(error.ends_with("the value is of type string, an integer (u32) is wanted"), "{error}");
        let error = said(metadata.required::<f32>("small").unwrap_err());
        assert!(error.ends_with("of type u8, a number with a fraction (f32) is wanted"), "{error}");
        let error = said(metadata.required::<&GgufStrings>("heads").unwrap_err());
        assert!(error.contains("of type array of i32, an array of strings"), "{error}");
        let error = said(metadata.required::<bool>("smal").unwrap_err());
        assert!(error.ends_with("the key is missing; did you mean \"small\"?"), "{error}");
        assert_eq!(metadata.value::<bool>("smal").unwrap(), None);
    }
}
